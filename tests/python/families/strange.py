import kernel_sweep as ks

ks.Family(
    name="strange",
    dims=["n"],
    tensors=[ks.writes("y", ["n"], "f32")],
    space={"a": [1]},
    problems=[{"n": 8}],
    build=3,
    reference=None,
)
