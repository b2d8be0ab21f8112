"""Balanced assignment of features to codes, in chunks against the whole matrix: `python -m benchmarks.vq --out vq.json`.

The literal form builds scores [N, K] and normalises them in float32, as the pseudocode and Sinkhorn-Knopp are written. Both are
timed in alternation within one run (CPU time of one thread on a CPU, wall time on a GPU), and medians are compared; absolute
times are printed, never asserted.

    memory    peak beyond features and codebook: resident memory of a process of its own, or CUDA's allocator
    again     rows whose scores were made a second time, because the bound on codes that were not kept failed
    wrong     codes that are not the best in float64, by more than 1e-5 of the row's range
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import alternate, default_device
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation.assignment import Scores, chunks_of
from rf_repro.representation.vq import OnlineVQ

SIZES = ("2048,4096,256", "4096,8192,768", "8192,16384,1280")
BALANCES = ("sinkhorn", "algorithm1")
MIB = 2**20


def literal(vq: OnlineVQ, features_ND: Tensor) -> Tensor:
    """As written, over the whole matrix in float32."""
    scores_NK = vq.normalise(features_ND) @ vq.prototypes.T / vq.config.temperature
    if vq.config.balance == "algorithm1":
        return scores_NK.softmax(1).softmax(0).argmax(1)
    log_NK = scores_NK
    for _ in range(vq.config.sinkhorn_iterations):
        log_NK = log_NK.log_softmax(1)
        log_NK = log_NK.log_softmax(0)
    return log_NK.argmax(1)


def wrong(vq: OnlineVQ, features_ND: Tensor, found: dict[str, Tensor]) -> dict[str, float]:
    """Share of each assignment's codes that are not the best in float64 (one Sinkhorn iteration), rows at a time."""
    prototypes_KD, literal1 = vq.prototypes.double(), vq.config.balance == "algorithm1"

    def values(rows: slice) -> Tensor:
        z_nD = torch.nn.functional.normalize(features_ND[rows].double() - vq.mean.double(), dim=1)
        scores_nK = z_nD @ prototypes_KD.T / vq.config.temperature
        return scores_nK.softmax(1) if literal1 else scores_nK.log_softmax(1)

    K, total = len(prototypes_KD), len(features_ND)
    masses_K = torch.zeros(K, dtype=torch.float64, device=features_ND.device)
    for rows in chunks_of(total, 2 * K):
        masses_K += values(rows).exp().sum(0)
    bad = dict.fromkeys(found, 0)
    for rows in chunks_of(total, 2 * K):
        exact_nK = values(rows) - masses_K.log()
        best_n, spread_n = exact_nK.amax(1), exact_nK.amax(1) - exact_nK.amin(1)
        for name, codes_N in found.items():
            behind_n = best_n - exact_nK.gather(1, codes_N[rows, None])[:, 0]
            bad[name] += int((behind_n > 1e-5 * spread_n).sum())
    return {name: count / total for name, count in bad.items()}


class CountingVQ(OnlineVQ):
    """Says how many rows of scores it made."""

    made = 0

    def scores(self, features_ND: Tensor, temperature: float) -> Scores:
        scores = super().scores(features_ND, temperature)

        def rows(chosen: slice | Tensor) -> Tensor:
            result = scores.rows(chosen)
            self.made += len(result)
            return result

        return replace(scores, rows=rows)


def clustered(count: int, width: int, seed: int) -> Tensor:
    """Features of 400 kinds, unevenly often, that share a mean, as an encoder's do."""
    shared = torch.Generator().manual_seed(0)
    centres, often = (
        torch.randn(400, width, generator=shared) + torch.randn(width, generator=shared),
        torch.rand(400, generator=shared),
    )
    generator = torch.Generator().manual_seed(1 + seed)
    kinds = torch.multinomial(often**3, count, replacement=True, generator=generator)
    return centres[kinds] + 0.5 * torch.randn(count, width, generator=generator)


def peak_bytes(task: Callable[[], object], device: torch.device) -> int:
    """How much the task holds at most beyond what is there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return torch.cuda.max_memory_allocated() - before
    receive, send = multiprocessing.Pipe(duplex=False)

    def measured() -> None:
        before = status_bytes("VmRSS")
        task()
        send.send(status_bytes("VmHWM") - before)

    process = multiprocessing.get_context("fork").Process(target=measured)  # one that begins with its peak where it is
    process.start()
    result: int = receive.recv()
    process.join()
    return result


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def compare(
    size: tuple[int, int, int], balance: str, temperature: float, repeats: int, device: torch.device
) -> dict[str, object]:
    N, K, D = size
    config = RepresentationConfig(kind="discrete", codebook_size=K, balance=balance, temperature=temperature)  # type: ignore[arg-type]
    vq = CountingVQ(config, D).to(device)
    vq.initialise(clustered(max(N, K), D, 0).to(device), torch.Generator().manual_seed(0))
    features = clustered(N, D, 1).to(device)
    tasks: dict[str, Callable[[], Tensor]] = {
        "literal": lambda: torch.no_grad()(literal)(vq, features),
        "chunks": lambda: vq.assign(features),
    }
    memory = {name: peak_bytes(task, device) for name, task in tasks.items()}
    vq.made = 0
    found = {name: task() for name, task in tasks.items()}
    again = vq.made / N - 1
    times = alternate(tasks, device, repeats)
    return {
        "N": N, "K": K, "D": D, "balance": balance, "temperature": temperature,
        "seconds": times, "peak_bytes": memory, "rows_again": again, "wrong": wrong(vq, features, found),
        "balanced_away_from_nearest": float((found["chunks"] != vq.nearest(features)).float().mean()),
        "time_ratio": times["literal"] / times["chunks"], "memory_ratio": memory["literal"] / memory["chunks"],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="N,K,D of features, codes, width (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the scores (default 0.5, the paper's)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each (default 3)")
    parser.add_argument("--device", default=default_device().type, help="default: cuda where there is one")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    rows = []
    print(
        f"{'N':>6} {'K':>6} {'D':>5} {'balance':<11} {'literal':>22} {'chunks':>20} {'time':>6} {'memory':>7} {'again':>6}  wrong"
    )
    for text in options.sizes:
        N, K, D = (int(part) for part in text.split(","))
        for balance in BALANCES:
            row = compare((N, K, D), balance, options.temperature, options.repeats, device)
            rows.append(row)
            shown = [f"{row['seconds'][name]:8.3f} s {row['peak_bytes'][name] / MIB:6.0f} MiB" for name in ("literal", "chunks")]  # type: ignore[index]
            bad = " -> ".join(f"{share:.2%}" for share in row["wrong"].values())  # type: ignore[attr-defined]
            ratios = f"{row['time_ratio']:5.2f}x {row['memory_ratio']:6.1f}x {row['rows_again']:6.1%}"
            print(f"{N:>6} {K:>6} {D:>5} {balance:<11} {shown[0]:>22} {shown[1]:>20} {ratios}  {bad}", flush=True)
    if options.out:
        machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
        options.out.write_text(json.dumps({"device": machine, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
