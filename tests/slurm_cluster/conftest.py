"""Tests in this folder need a SLURM: `make test-slurm` starts one. Without one they are skipped, saying why."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import ENDED, controller_answers, run, squeue, wait_until

HERE = Path(__file__).parent
PARTITIONS = {"main", "preempt"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")


def _missing() -> str | None:
    """What these tests lack here; None: nothing."""
    if shutil.which("scontrol") is None:
        return "SLURM is not installed"
    if not controller_answers():
        return "no SLURM controller answers"
    names = run("sinfo", "--noheader", "--format=%R").stdout.split()
    return None if set(names) >= PARTITIONS else f"the SLURM here has no partitions {' and '.join(sorted(PARTITIONS))}"


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Skips everything without a fitting SLURM; fails instead where RF_REPRO_NEEDS_SLURM is set, as `make test-slurm` does."""
    if (missing := _missing()) is not None:
        (pytest.fail if os.environ.get("RF_REPRO_NEEDS_SLURM") else pytest.skip)(f"{missing}; `make test-slurm` starts one")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder for runs, the same for all nodes: they are this machine."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(cluster: None, tmp_path: Path) -> Iterator[None]:
    """Cancels the jobs that work or write below the test's folder; jobs of others stay."""
    yield

    def left() -> list[str]:
        open_rows = [row for row in squeue() if row.state not in ENDED]
        return [row.job for row in open_rows if any(Path(at).is_relative_to(tmp_path) for at in (row.folder, row.output))]

    if jobs := left():
        run("scancel", *jobs)
        wait_until(lambda: not left(), 30, f"{jobs} end after scancel")
