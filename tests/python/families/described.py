"""A family that a manifest beside the file describes."""

import kernel_sweep as ks
from numpy_kernels import build

described = ks.Family(toml="described.toml", build=build, reference=lambda x: 2 * x.astype("f8"))
