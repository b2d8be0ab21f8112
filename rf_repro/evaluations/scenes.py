"""GenEval on images of drawn scenes, by the exact detector: what a model trained on shards of scenes is scored by."""

from collections.abc import Callable

from evaluators.geneval.options import GenEvalOptions
from evaluators.results import Evaluation
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.image_folder import ImageFolder

SCENES = "scenes"  # the detector's name, and that of the prompt set


def score_scenes(
    folder: ImageFolder, scenes: ScenesConfig, rules: GenEvalOptions, progress: Callable[[int, int], None]
) -> Evaluation:
    """Scores a folder that a manifest lists.

    Args:
        scenes: the world whose images they are.
        progress: called with (images scored, images in all).

    Raises:
        UserError: the folder has no manifest, or its prompts ask for what is not GenEval's.
    """
    from evaluators.geneval.sampled import evaluate_folder
    from rf_repro.worlds.scenes.colors import SceneColorClassifier
    from rf_repro.worlds.scenes.detector import SceneDetector

    result, rows = evaluate_folder(
        folder, SceneDetector(scenes), SceneColorClassifier(scenes), rules, benchmark="geneval-scenes", progress=progress
    )
    return Evaluation.of(result, rows)
