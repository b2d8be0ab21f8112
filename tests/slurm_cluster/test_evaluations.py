"""From data to tables at scale `base`, by one command: training, images, scores and questions as jobs, some of them killed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the extra `hub` is not installed")
pytest.importorskip("diffusers", reason="the extra `hub` is not installed")

from rf_repro.core.action_dir import ActionDir, ShareDir
from rf_repro.core.run_dir import RunDir
from slurm.submission import Ledger
from slurm.sweep import all_sweeps
from tests.evaluation_world import EVALUATIONS, write_evaluation_world
from tests.slurm_cluster.cluster import wait_until
from tests.slurm_cluster.test_grid import states, sweep

PROFILE = """\
resources: {cpus_per_task: 1, memory: 1500MB, time: 10m}
shares: {sample: 2}
signal_seconds: 20
device: cpu
"""
ROWS = ["--only", "pixel_rf,vlm_only,vlm_siglip"]  # a row of each kind: LOG.md has the run with all of them
PART = EVALUATIONS.replace("  table3a:", "  table2: [mmmu]\n  table3e: [mmmu]\n  table3a:")


def jobs(text: str) -> dict[str, int]:
    """Action -> sbatch calls, from what `sweep submit` printed."""
    calls = re.findall(r"^job \d+: ([\w-]+)", text, re.MULTILINE)
    return {action: calls.count(action) for action in calls}


def kill_at_work(runs: Path, pattern: str) -> ShareDir:
    """SIGKILL to the first process that works on a share of an action."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in runs.glob(f"base/*/*/actions/{pattern}/*-of-*/share.json"):
            share = ShareDir(path.parent)
            if pid := share.holder():
                os.kill(pid, signal.SIGKILL)
                return share
        time.sleep(0.05)
    raise AssertionError(f"nobody has worked on {pattern}")


def test_one_command_goes_from_data_to_tables(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables 1, 2, 3a and 3e: every cell has a record, whatever happens to jobs on the way."""
    world = tmp_path / "world"
    world.mkdir()
    options = write_evaluation_world(world)
    (world / "evals.yaml").write_text(PART)
    profile, report = tmp_path / "profile.yaml", tmp_path / "report"
    profile.write_text(PROFILE)
    grid = [
        "table1,table2,table3a,table3e",
        *options,
        *ROWS,
        "--profile",
        str(profile),
        "--runs",
        str(runs),
        "--out",
        str(report),
    ]
    capsys.readouterr()
    calls = jobs(sweep(capsys, "submit", *grid))
    assert calls["train"] == 5  # DINOv3's alignment, SigLIP2's; pixel_rf and vlm_only; what goes on from it; vlm_siglip
    assert calls["mmmu"] == 3
    assert calls["sample-prompts-64"] == 2
    assert calls["report"] == 1
    assert "nothing to submit" in sweep(capsys, "submit", *grid)

    killed = [kill_at_work(runs, "sample-prompts-64"), kill_at_work(runs, "mmmu")]
    wait_until(lambda: set(states(runs).values()) == {"done"}, 500, "every row ends")
    wait_until((report / "report.html").exists, 60, "the last job builds the report")
    for share in killed:
        record = share.record()
        assert record is not None
        assert record.done
        assert record.attempts[0].seconds is None  # it could not say
        assert len(record.attempts) >= 2
        assert len({attempt.job_id for attempt in record.attempts}) == 1  # put back into the queue, not submitted anew

    found = {run.record().variant: run for run in RunDir.find(runs) if not run.record().variant.startswith("stage-")}
    assert {name: run.eval_names() for name, run in found.items()} == {
        "pixel_rf": ["geneval", "understanding-mmmu"],
        "pixel_rf-continued": ["dpg-64-judge-tiny-vl", "geneval", "geneval-bagel-long"],
        "vlm_only": ["understanding-mmmu"],
        "vlm_siglip": ["understanding-mmmu"],
        "bagel": ["dpg-64-judge-tiny-vl", "geneval", "geneval-bagel-long"],
    }
    for sweep_rows in all_sweeps(Ledger(runs)):
        for row in sweep_rows.rows:
            for one in row.job.evaluations:
                assert ActionDir.of(row.job.run, one.name).has_done(one.digest)
    page = (report / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| Pixel\+RF \| \d\.\d+ \[", page)  # Table 3a
    assert json.loads((report / "claims.json").read_text())

    # Another benchmark, once all is done: nothing else is submitted.
    before = {path: path.stat().st_mtime_ns for path in runs.glob("base/*/*/evals/*.json")}
    (world / "evals.yaml").write_text(PART.replace("table2: [mmmu]", "table2: [mmmu, blink]"))
    assert jobs(sweep(capsys, "submit", *grid)) == {"blink": 1, "report": 1}
    wait_until(lambda: set(states(runs).values()) == {"done"}, 200, "the new benchmark ends")
    assert found["pixel_rf"].eval_names() == ["geneval", "understanding-blink", "understanding-mmmu"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
