"""The GPUs that `rf-repro estimate` knows. Imports no torch."""

from dataclasses import dataclass

from rf_repro.core.errors import UserError


@dataclass(frozen=True)
class GPU:
    """Memory in bytes, dense bf16 matrix FLOP/s with fp32 accumulation, and bytes/s that the memory gives, as the vendor's data
    sheet has them.

    A data sheet's gigabyte is read as 10^9 bytes. Cards have a few percent more, which is left for fragmentation.
    """

    name: str
    memory: int
    flops: float
    bandwidth: int


_GB, _TFLOPS = 10**9, 1e12
# Sources: NVIDIA's data sheets and white papers of A100, H100, H200, DGX B200, L40S (SXM where there is a choice) and Ada
# (GeForce 4090). Where a sheet prints the rate with sparsity, this is half of it. B200's bandwidth is an eighth of DGX B200's.
_ALL = (
    GPU("a100-40", 40 * _GB, 312 * _TFLOPS, 1555 * _GB),
    GPU("a100-80", 80 * _GB, 312 * _TFLOPS, 2039 * _GB),
    GPU("h100", 80 * _GB, 989 * _TFLOPS, 3350 * _GB),
    GPU("h200", 141 * _GB, 989 * _TFLOPS, 4800 * _GB),
    GPU("b200", 180 * _GB, 2250 * _TFLOPS, 8000 * _GB),
    GPU("l40s", 48 * _GB, 362 * _TFLOPS, 864 * _GB),
    GPU("4090", 24 * _GB, 165 * _TFLOPS, 1008 * _GB),
)
GPUS: dict[str, GPU] = {gpu.name: gpu for gpu in _ALL}


def get_gpu(name: str) -> GPU:
    """The GPU of that name. Raises UserError when there is none."""
    if name not in GPUS:
        raise UserError(f"--gpu {name!r}: unknown; choose one of {', '.join(GPUS)}")
    return GPUS[name]
