"""Runs of which something was lost: what is gone is made again, from the last checkpoint before it. Nothing is removed: what the
weights that are gone had left is kept in `earlier-N/`."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.core.errors import UserError
from rf_repro.core.outputs import absent, changed, digests, require_unchanged
from rf_repro.core.records import Action
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say
from rf_repro.train.checkpoint import check, list_checkpoints, step_of

ON_THE_WAY = re.compile(r"-step(\d+)\.(json|items\.jsonl)$")  # of an evaluation before the end
LATER = ("samples", "images", "actions", "contact_sheet.png", "wrong_sheet.png")  # what trained weights leave, beside evaluations


def evaluations(run: RunDir, on_the_way: bool) -> list[Path]:
    """The files of those that were made as the run was trained, or of all others."""
    return [path for path in run.evals.glob("[!.]*.json*") if (_point(path.name) is not None) == on_the_way]


def record_outputs(run: RunDir, action: Action, files: Iterable[Path]) -> None:
    """Says in the record what an action has left: with it the action is done."""
    record = run.record()
    run.write_record(replace(record, outputs={**record.outputs, action: digests(run.path, files)}))


def before_training(run: RunDir, points: Sequence[str] = (), ranks: Ranks = ALONE) -> None:
    """Goes back to before what training had left and was lost, in a line that says so. Every rank calls it.

    Args:
        points: what completes the run besides its steps, as paths of records below it: those on the way are wanted.

    Raises:
        UserError: on every rank, a file holds something else than what was written.
    """
    error: UserError | None = None
    try:
        if ranks.is_first:
            _go_back(run, points)
    except UserError as caught:
        error = caught
    if ranks.any(error is not None):
        raise error or UserError(f"{run.path}: is damaged (another rank says how)")


def _go_back(run: RunDir, points: Sequence[str]) -> None:
    record, checkpoints = run.record(), list_checkpoints(run.checkpoints)
    listed = record.outputs.get("train", {})
    require_unchanged(run.path, listed)
    last = step_of(checkpoints[-1]) if checkpoints else 0
    passed = [name for name in points if 0 < (_point(name) or 0) < last and not (run.path / name).exists()]
    lost = list(dict.fromkeys([*absent(run.path, listed), *passed]))
    if not lost:
        return
    for path in checkpoints:
        if (path / "state.json").relative_to(run.path).as_posix() in lost:
            check(path)  # says which of its files is damaged
    least = min(_reached(name, last) for name in lost)
    kept = [path for path in checkpoints if step_of(path) <= least]
    start = step_of(kept[-1]) if kept else 0
    aside = [path for path in checkpoints if path not in kept]
    if start < max(last, record.steps):  # steps are made again, and all that is theirs
        aside += [path for path in evaluations(run, True) if (_point(path.name) or 0) > start]
        aside += [*evaluations(run, False), *(run.path / name for name in LATER)]
    aside += _siblings(run, lost)
    place = _set_aside(run, aside)
    run.write_record(replace(record, outputs={}, steps=0))
    kept_in = f"; what came later is kept in {place.name}" if place else ""
    say(f"{run.path}: {lost[0]} is gone: trains again from step {start}{kept_in}", file=sys.stderr)


def before_sampling(run: RunDir) -> None:
    """Raises UserError where an image, or the list of them, is not what was written."""
    require_unchanged(run.path, run.record().outputs.get("sample", {}))
    if run.images.manifest_path.exists():
        run.images.require_unchanged()


def before_scoring(run: RunDir) -> None:
    """Makes way for evaluations of which a file is gone, and for all where the images are others by now.

    Raises:
        UserError: a file holds something else than what was written.
    """
    before_sampling(run)
    listed = run.record().outputs.get("evaluate", {})
    images = run.images.manifest_path.relative_to(run.path).as_posix()
    if changed(run.path, {name: digest for name, digest in listed.items() if name == images}):
        place = _set_aside(run, [run.path / name for name in listed if name != images])
        if place:
            say(f"{run.path}: its images were drawn anew: scores of those before are kept in {place.name}", file=sys.stderr)
        return
    require_unchanged(run.path, listed)
    _set_aside(run, _siblings(run, absent(run.path, listed)))


def _reached(name: str, last: int) -> int:
    """The last step from which on a file is made again."""
    point = _point(name)
    return 0 if name == "metrics.jsonl" else last if point is None else point


def _point(name: str) -> int | None:
    """The step of an evaluation on the way."""
    found = ON_THE_WAY.search(name)
    return None if found is None else int(found[1])


def _siblings(run: RunDir, lost: Iterable[str]) -> list[Path]:
    """What is left of evaluations of which a file is gone."""
    stems = {Path(name).name.partition(".")[0] for name in lost if name.startswith("evals/")}
    return [path for path in run.evals.glob("[!.]*.json*") if path.name.partition(".")[0] in stems]


def _set_aside(run: RunDir, paths: Iterable[Path]) -> Path | None:
    """Moves what is there to a new folder in the run; None where nothing is."""
    there = [path for path in dict.fromkeys(paths) if path.exists()]
    if not there:
        return None
    number = 1
    while (place := run.path / f"earlier-{number}").exists():
        number += 1
    try:
        for path in there:
            to = place / path.relative_to(run.path)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
    except OSError as error:
        raise UserError(f"{place}: cannot write ({error.strerror}); move {path} out of the run's folder") from error
    return place
