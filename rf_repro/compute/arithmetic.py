"""Which arithmetic a machine computes in: bf16 in a config is a wish, granted where the device has instructions for it.

Without them bf16 is emulated, and a step at `tiny` takes 13 times as long. What was used is recorded with each attempt; like
threads and device it is no part of a run's identity. A run may go on in the other:
masters, averages and moments are float32 in both.
"""

import os

import torch

from rf_repro.compute.ranks import ALONE, Ranks

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
EMULATED = ("AVX512_CORE", "AVX512_CORE_VNNI")  # of oneDNN's instruction sets: it takes bf16 there, and converts


def arithmetic(wish: str, device: torch.device, ranks: Ranks = ALONE) -> str:
    """`bf16` or `fp32`: what a run computes in on this device, orthogonalisation included. All ranks call it, and get the same.

    Args:
        wish: `optim.precision` of its config.
    """
    lacking = wish == "bf16" and not has_bf16(device)
    return "fp32" if ranks.any(lacking) else wish


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 by instructions of its own. MPS does not say; float32 is as fast there or nearly so."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    has = torch.cpu.get_capabilities()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""  # how another machine is emulated
    is_native = has.get("avx512_bf16", False) or has.get("bf16", False)  # x86, ARM
    return is_native and limit.upper() not in EMULATED and torch.ops.mkldnn._is_mkldnn_bf16_supported()
