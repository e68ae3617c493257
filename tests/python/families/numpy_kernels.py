"""Families for the host: real kernels of numpy, and one config of each fault."""

import os
import time

import kernel_sweep as ks
import numpy


def build(config, problem):
    step, fault = config["step"], config.get("fault", "none")
    if fault == "build raises":
        raise ValueError("no such\nstep")
    if fault == "builds nothing":
        return None

    def scale(x, y):
        if fault == "hangs":
            time.sleep(1000)
        if fault == "exits":
            os._exit(7)
        if fault == "aborts":
            os.abort()
        if fault == "raises":
            raise RuntimeError("thrown")
        print("noise that must not reach the protocol")
        for first in range(0, problem["n"], step):
            numpy.multiply(x[first : first + step], 2, out=y[first : first + step])
        if fault == "wrong":
            y[-1] += 1
        if fault == "changes its input":
            x[3] = 5

    return scale


def parts(problems):
    return dict(
        dims=["n"],
        tensors=[ks.reads("x", ["n"], "f32"), ks.writes("y", ["n"], "f32")],
        problems=[{"n": n} for n in problems],
        build=build,
        reference=lambda x: 2 * x.astype("f8"),
    )


scale = ks.Family(name="scale", space={"step": [64, 4096, 65536]}, **parts([20_000, 50_001]))

FAULTS = ["build raises", "builds nothing", "raises", "hangs", "exits", "aborts", "wrong", "changes its input"]
faulty = ks.Family(name="faulty", space={"step": [4096], "fault": ["none", *FAULTS]}, **parts([20_000]))

hopeless = ks.Family(name="hopeless", space={"step": [4096], "fault": ["raises"]}, **parts([20_000]))

# What is fast for few is slow for many, and the other way round.
split = ks.Family(
    name="split",
    space={"for": ["many", "few"]},
    **{
        **parts([1000, 10_000]),
        "build": lambda config: (
            lambda x, y: (
                time.sleep(0.002 * ((x.size > 5000) != (config["for"] == "many"))),
                numpy.multiply(x, 2, out=y),
            )
        ),
    },
)



def built_slowly(config):
    time.sleep(0.25)
    return lambda x, y: (time.sleep(0.002 * (config["place"] == 0)), numpy.multiply(x, 2, out=y))


# What takes long to build, whose default is slow.
slowly = ks.Family(name="slowly", space={"place": list(range(48))}, **{**parts([1000, 10_000]), "build": built_slowly})

# What returns its outputs, and what updates a tensor in place.
returning = ks.Family(
    name="returning",
    dims=["n"],
    tensors=[ks.reads("x", ["n"], "f32"), ks.writes("y", ["n"], "f32"), ks.updates("total", ["n"], "f32")],
    space=[{"way": "add"}, {"way": "multiply"}, {"way": "forgets"}],
    problems=[{"n": 4096}],
    build=lambda config: (
        lambda x, total: (x + x if config["way"] == "add" else 2 * x, total if config["way"] == "forgets" else total + x)
    ),
    reference=lambda x, total: (2 * x.astype("f8"), total.astype("f8") + x),
    returns=True,
)
