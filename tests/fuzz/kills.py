"""Kills work at random moments, again and again; it must end with the bytes of work that was left in peace.

    python -m tests.fuzz.kills --kills 200

The work is a first stage, Pixel+RF trained, sampled and scored, and the report, at scale `smoke` made smaller. The process gets
SIGKILL, as when a machine loses power. Compared are weights, samples, scores, metrics, tables and verdicts, but for times, hosts
and attempts.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

CHANGES = {
    "evals.images_per_task": 2, "data.scenes.num_train": 128, "checkpoint_every": 3, "stages.pretrain.steps": 8,
    "stages.pretrain.warmup_steps": 2, "stages.joint.steps": 10, "stages.joint.warmup_steps": 2, "evals.every": 5,
}  # fmt: skip
# Times, and digests of files that hold some.
OF_TIME = {
    "seconds", "compute_seconds", "started", "attempts", "steps_per_second", "tokens_per_second", "files", "outputs", "digest",
}  # fmt: skip
NOT_COMPARED = ("files.json", "runs.csv", "runs.parquet", "sources.csv", "sources.parquet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)  # what is killed
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
        return 0
    draw, kills, rounds = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        begin = time.monotonic()
        _work_until(Path(name) / "whole", None)
        longest = (time.monotonic() - begin) / 2  # so that each try gets somewhere
        wanted = dict(_digests(Path(name) / "whole"))
        while kills < options.kills:
            folder = Path(name) / f"killed-{rounds}"
            while not _work_until(folder, draw.uniform(0.2, longest) if kills < options.kills else None):
                kills += 1
            found = dict(_digests(folder))
            if different := sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)):
                print(f"after {kills} kills {len(different)} files differ: {', '.join(different[:9])}")
                return 1
            rounds += 1
            print(f"{kills} kills, {rounds} times to the end: {len(found)} files, all the same", flush=True)
    return 0


def work(folder: Path) -> None:
    """All of it, or what is left."""
    from reports.build import build_report
    from rf_repro.config.overrides import apply_overrides
    from rf_repro.config.scales import smoke
    from rf_repro.experiment.run import run_variant

    config = apply_overrides(smoke(), {**CHANGES, "representation.kind": "discrete"})
    run_variant(config, variant="pixel_rf", seed=0, runs=folder / "runs", device="cpu")
    build_report([folder / "runs"], folder / "report", "smoke", CHANGES)


def _work_until(folder: Path, seconds: float | None) -> bool:
    """Whether the work came to its end before it was killed, after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.kills", "--work", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"the work ended with {process.returncode}: {said[-2000:]}")
    return True


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Relative path -> digest of what must be the same."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or path.name.startswith(".") or "logs" in inside.parts or path.name in NOT_COMPARED:
            continue
        if inside.parts[0] == "report" and (path.suffix in (".html", ".md") or path.parent.name == "figures"):
            continue  # curves against seconds, and the pages that hold them
        if path.suffix in (".json", ".jsonl") and inside.parts[0] == "runs":
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            data = json.dumps([_without_times(json.loads(line)) for line in lines]).encode()
        elif path.suffix == ".safetensors":  # whose header has no order
            tensors = sorted(load_file(path).items())
            data = b"".join(name.encode() + tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in tensors)
        else:
            data = path.read_bytes()
        yield str(inside), hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in OF_TIME}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
