"""Kills `rf-repro reproduce` at random moments, again and again; it must end with the bytes of a run that was left in peace.

    python -m tests.fuzz.kills --kills 200

Every process of it gets SIGKILL at once, as when a machine loses power. Compared are weights, samples, scores, metrics and the
report, but for times, hosts and attempts.
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

COMMAND = [
    sys.executable, "-m", "rf_repro.cli", "reproduce", "--scale", "smoke", "--device", "cpu", "--jobs", "2",
    "--set", "evals.images_per_task=2", "--set", "data.scenes.num_train=128",
]  # fmt: skip
LONGEST = 14.0  # seconds until a kill: about one and a half runs' start
OF_TIME = {"seconds", "compute_seconds", "started", "attempts", "steps_per_second", "tokens_per_second"}
NOT_COMPARED = ("runs.csv", "runs.parquet", "sources.csv", "sources.parquet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    draw, kills, rounds = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        _reproduce(Path(name) / "whole", None)
        wanted = dict(_digests(Path(name) / "whole"))
        while kills < options.kills:
            folder = Path(name) / f"killed-{rounds}"
            while not _reproduce(folder, draw.uniform(0.2, LONGEST) if kills < options.kills else None):
                kills += 1
            found = dict(_digests(folder))
            if different := sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)):
                print(f"after {kills} kills {len(different)} files differ: {', '.join(different[:5])}; kept in {folder}")
                return 1
            rounds += 1
            print(f"{kills} kills, {rounds} runs ended: {len(found)} files, all the same", flush=True)
    return 0


def _reproduce(folder: Path, seconds: float | None) -> bool:
    """Whether the command came to its end before it was killed, after so many seconds."""
    command = [*COMMAND, "--runs", str(folder / "runs"), "--out", str(folder / "report")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill_all(process.pid)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}: {said[-2000:]}")
    return True


def _kill_all(session: int) -> None:
    """Every process of a session, in whatever group; until none is left."""
    while members := [pid for pid in _processes() if _session(pid) == session]:
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session(pid: int) -> int | None:
    """None of a process that is gone, or waits to be."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(rest[2])


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
        else:
            data = path.read_bytes()
        yield str(inside), hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in OF_TIME and "digest" not in key}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
