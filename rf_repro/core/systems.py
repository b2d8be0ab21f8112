"""Other groups' systems, whose images are scored beside a run's: each has a run directory of its own, without any training."""

from dataclasses import replace
from pathlib import Path

from rf_repro.core.hashing import content_hash
from rf_repro.core.run_dir import RunDir


def locate_system(runs: Path, scale: str, key: str) -> RunDir:
    """Where a system's scores are kept; nothing is read or written.

    Args:
        runs: folder of all runs.
        scale: of the runs that it stands beside.
        key: as Table 1 names it, e.g. `bagel`.
    """
    return RunDir.locate(runs, content_hash({"system": key}), scale, key, 0)


def system_run(runs: Path, scale: str, key: str) -> RunDir:
    """Makes or reopens it. Raises UserError as `RunDir.create`."""
    config = {"system": key}
    run = RunDir.create(runs, config, content_hash(config), scale, key, 0)
    if run.record().status != "done":
        run.write_record(replace(run.record(), status="done"))
    return run
