"""The directory of another group's system beside our runs: nothing is trained there, its images are scored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rf_repro.core.hashing import content_hash
from rf_repro.core.run_dir import RunDir


def system_config(key: str) -> dict[str, Any]:
    """What the record of a system is told by; its hash takes the place of a training's.

    Args:
        key: of the system, e.g. `bagel`.
    """
    return {"system": key}


def locate_system(runs: Path, scale: str, key: str) -> RunDir:
    """`runs/<scale>/<key>/<hash12>-s0`; nothing is read or written. Arguments as of `system_run`."""
    return RunDir.locate(runs, content_hash(system_config(key)), scale, key, 0)


def system_run(runs: Path, scale: str, key: str) -> RunDir:
    """Makes or reopens it, a done run of no steps. Its scores are written as those of our own runs at the scale's largest size
    are: `geneval_name(L, L, L, ...)`, `dpg_name(L, L, ...)`, L = `model.max_image_size`.

    Args:
        runs: folder of all runs.
        scale: whose model the system stands beside.
        key: of a system of `ablations.table1`.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    config = system_config(key)
    run = RunDir.create(runs, config, content_hash(config), scale, key, 0)
    if run.record().status != "done":
        run.write_record(replace(run.record(), status="done"))
    return run
