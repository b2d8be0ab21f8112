"""The expert pool's two paths, and what routing costs: `python -m benchmarks.experts --out experts.json`.

All in one run, in alternation, medians, forward and backward; absolute times are printed, only ratios compare machines.

    grouped     one grouped matrix product for all experts (CUDA: bf16)
    loop        a matrix product an expert
    dense       one dense feed-forward of as many active parameters: the same FLOPs without routing

The size is Qwen3-30B-A3B's (128 experts of 768, 8 active, width 2048) on CUDA, a sixteenth of its width on a CPU.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.timing import alternate, default_device
from rf_repro.model import experts
from rf_repro.model.experts import FeedForward, SparseFeedForward


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers; default: print alone")
    parser.add_argument("--tokens", type=int, default=0, help="tokens of the pool (default: 16384 on CUDA, 512 on a CPU)")
    parser.add_argument("--repeats", type=int, default=10, help="timed repeats (default: %(default)s)")
    options = parser.parse_args(arguments)
    device = default_device()
    on_cuda = device.type == "cuda"
    width, inner, tokens = (2048, 768, 16_384) if on_cuda else (128, 48, 512)
    tokens = options.tokens or tokens
    dtype = torch.bfloat16 if on_cuda else torch.float32
    torch.manual_seed(0)
    sparse = SparseFeedForward(width, inner, num_experts=128, num_active=8).to(device, dtype)
    dense = FeedForward(width, 8 * inner).to(device, dtype)
    x = torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True)

    def task(pool: nn.Module, grouped: bool | None) -> Callable[[], object]:
        def run() -> None:
            with patch.object(experts, "can_group", lambda *_: grouped):
                out = pool(x)
                result: Tensor = out[0] if isinstance(out, tuple) else out
                result.backward(result.detach())
            x.grad = None
            pool.zero_grad()

        return run

    tasks = {"grouped": task(sparse, True), "loop": task(sparse, False), "dense": task(dense, None)}
    seconds = alternate(tasks, device, options.repeats, warm=2)
    flops = 3 * 2 * tokens * 8 * 3 * width * inner  # forward and twice that backward, of the chosen experts
    report = {
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu", "dtype": str(dtype), "tokens": tokens,
        "width": width, "inner": inner, "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "loop_over_grouped": seconds["loop"] / seconds["grouped"], "grouped_over_dense": seconds["grouped"] / seconds["dense"],
        "teraflops": {name: flops / value / 1e12 for name, value in seconds.items()},
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
