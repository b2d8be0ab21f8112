"""What completes a run of the scenes world besides its steps: `evaluation` and `gates` in numbers."""

from typing import assert_never

from evaluators.geneval.metadata import TASKS
from rf_repro.config.prerequisites import PrerequisiteKind
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.scenes.questions import QUESTION_TYPES
from rf_repro.model.spaces import space_of
from rf_repro.representation.kinds import representation_of
from rf_repro.worlds import Piece


def pieces(config: ExperimentConfig, kind: PrerequisiteKind | None) -> list[Piece]:
    """In the order in which they are done."""
    evals, steps = config.evals, config.stages[-1].steps
    images, on_curve = len(TASKS) * evals.images_per_task, len(TASKS) * evals.curve_images_per_task
    match kind:
        case None:
            found = []
        case "encoder" | "own stage":
            return []
        case "vae":
            return [Piece("evals/geneval-vae-reconstruction.json", scored=images)]
        case "stage":
            return [Piece(f"evals/geneval-{gate}.json", scored=images) for gate in ("ground-truth", "mismatched")]
        case _:
            assert_never(kind)
    generates = space_of(config.model).generates
    for step in sorted({*(range(evals.every, steps, evals.every) if evals.every else ()), steps}):
        if generates:
            found.append(Piece(f"evals/geneval-step{step:06d}.json", on_curve, on_curve))
        if evals.curve_questions_per_type:
            asked = len(QUESTION_TYPES) * evals.curve_questions_per_type
            found.append(Piece(f"evals/questions-step{step:06d}.json", answered=asked))
    if generates:
        found += [Piece("samples/manifest.json", drawn=images), Piece("evals/geneval.json", scored=images)]
        if representation_of(config).has_tokens:
            found.append(Piece("evals/geneval-ground-truth-representation.json", images, images))
    if evals.questions_per_type:
        found.append(Piece("evals/questions.json", answered=len(QUESTION_TYPES) * evals.questions_per_type))
    return found
