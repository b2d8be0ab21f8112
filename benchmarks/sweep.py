"""How planning a grid grows with its rows: seconds of the whole command, and sbatch calls, on a grid half of which is done.

    python -m benchmarks.sweep --rows 20,100,500,2000 --out sweep.json

The grid is Table 3a at `smoke` with more and more seeds, stages of each seed's own; no SLURM is needed. Half of the runs have
records with several attempts. `import` is the same command with --help: what every command costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rf_repro.core.records import Attempt
from rf_repro.launch.plan import make_plan

ROOT = Path(__file__).parents[1]


def fill(runs: Path, seeds: int) -> int:
    """Records of a grid with so many seeds, as if half of its runs were done. Returns the number of its runs."""
    plan = make_plan("smoke", ["table3a"], range(seeds), runs)
    plan.create()
    for job in plan.jobs:
        if job.seed < seeds // 2:
            attempts = [Attempt("2026-01-01T00:00:00+00:00", "node", 1, "cpu", 1, str(n), 0, 60.0) for n in range(4)]
            record = replace(job.run.record(), status="done", attempts=attempts, steps=job.steps)
            job.run.write_record(replace(record, started_from=[f"{path.parent.name}/{path.name}" for path in job.after]))
    return len(plan.jobs)


def timed(*arguments: str) -> tuple[float, str]:
    """Wall-clock seconds of `rf-repro ARGUMENTS` in a process of its own, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "rf_repro.cli", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begin, done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="20,100,500,2000", help="rows of the grids, multiples of 4 (default 20,100,500,2000)")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest of so many counts (default 5)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args(arguments)
    results = []
    print(f"{'rows':>6}{'runs':>7}{'import s':>10}{'plan s':>8}{'dry run s':>11}{'sbatch calls':>14}")
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            runs = fill(Path(folder), rows // 4)
            grid = ["table3a", "--scale", "smoke", "--seeds", f"0-{rows // 4 - 1}", "--profile", "cpu",
                    "--runs", folder]  # fmt: skip
            start = min(timed("sweep", "--help")[0] for _ in range(options.repeats))
            plan = min(timed("sweep", "plan", *grid)[0] for _ in range(options.repeats))
            dry, text = min(timed("sweep", "submit", "--dry-run", *grid) for _ in range(options.repeats))
        calls = text.count("--- sbatch call ")
        results.append({"rows": rows, "runs": runs, "import_s": start, "plan_s": plan, "dry_run_s": dry, "sbatch_calls": calls})
        print(f"{rows:>6}{runs:>7}{start:>10.2f}{plan:>8.2f}{dry:>11.2f}{calls:>14}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
