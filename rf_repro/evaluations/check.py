"""What can be told of an evaluation plan before anything is trained or queued: that its prompts, weights and data are there, and
that the models can draw and answer what it asks for."""

import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.evaluations.actions import Drawing, Evaluation, Scoring
from rf_repro.evaluations.prompts import own_file, prompt_rows, questions
from rf_repro.evaluations.scenes import SCENES
from rf_repro.worlds import world_of

IMPORT_SECONDS = 300  # for modelscope, on a slow file system


def check_evaluations(asked: Iterable[tuple[ExperimentConfig, Sequence[Evaluation]]]) -> None:
    """Each thing once, however many runs ask for it. The judges' and the detector's own answers are checked later, on the machine
    that they run on.

    Args:
        asked: configs of runs, with what they are to be sampled and scored by.

    Raises:
        UserError: a prompt set was not fetched, weights or data are missing or of another model, or a prompt is too long.
    """
    seen: set[object] = set()
    for config, evaluations in asked:
        for one in evaluations:
            if isinstance(one, Drawing):
                key: object = (one, config.model.decoder.pretrained, config.data.caption_tokens, config.max_image_size)
                work = _check_drawing
            else:
                key = (one.benchmark, one.settings, one.folder, one.images)
                work = _check_scoring  # type: ignore[assignment]
            if key in seen:
                continue
            seen.add(key)
            try:
                work(one, config)  # type: ignore[arg-type]
            except UserError as error:
                raise UserError(f"evaluation plan, {one.name}: {error}") from None


def _check_drawing(drawing: Drawing, config: ExperimentConfig) -> None:
    world, rows = world_of(config), prompt_rows(drawing)
    world.check_size(config, (drawing.size, drawing.size))
    world.captions(config, [row["prompt"] for row in rows])


def _check_scoring(scoring: Scoring, config: ExperimentConfig) -> None:
    if scoring.images is None:
        questions(scoring)
        return
    prompt_rows(scoring.images)
    if scoring.benchmark == "geneval":
        if scoring.get("detector") != SCENES:
            _check_detector(*(scoring.get(name) for name in ("detector", "weights", "clip", "profile")))
            if (reference := scoring.get("reference")) and not Path(reference).is_file():
                raise UserError(f"reference={reference!r}: no such file")
        return
    _check_judge(scoring.benchmark, scoring.get("judge"), scoring.get("python") if scoring.benchmark == "dpg" else None)
    if scoring.benchmark == "dpg":
        from evaluators.dpg.data import load

        load(own_file(scoring.images))


@cache
def _check_detector(kind: str, weights: str | None, clip: str | None, profile: str) -> None:
    """Loads both models on the CPU, which says whether every weight is there and fits."""
    from evaluators.geneval.models import load_classifier, load_detector

    load_detector(kind, weights, "cpu")
    load_classifier(clip, profile, "cpu")


@cache
def _check_judge(benchmark: str, judge: str, python: str | None) -> None:
    from evaluators.vlm.options import check_vlm

    kind, _, folder = judge.partition(":")
    if benchmark != "dpg" or kind != "mplug":
        check_vlm(judge)
        return
    if folder and not Path(folder).is_dir():
        raise UserError(f"judge={judge!r}: no such folder of weights")
    if python is None:
        raise UserError(
            "judge='mplug': needs an environment of its own, with the extra `mplug` (docs/judges.md); name its interpreter as "
            "dpg.python, or another judge"
        )
    try:
        done = subprocess.run([python, "-c", "import modelscope"], capture_output=True, timeout=IMPORT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"python={python!r}: cannot be started ({error})") from None
    if done.returncode:
        raise UserError(f"python={python!r}: has no modelscope, which mplug needs; install the extra `mplug` there")
