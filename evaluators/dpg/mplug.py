"""mPLUG, the model behind DPG-Bench's published numbers, through modelscope's pipeline as the official script runs it.

modelscope is an extra of its own (`pip install -e '.[mplug]'`), best in an environment of its own: it holds `datasets` below what
this project's development tools take. Weights: damo/mplug_visual-question-answering_coco_large_en, Apache-2.0, which modelscope
downloads; a copy on the Hugging Face hub is diffusion-bench/mplug_visual-question-answering_coco_large_en.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from evaluators.vlm.protocol import Parts
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash, file_sha256

WEIGHTS = "damo/mplug_visual-question-answering_coco_large_en"
SPEC = "mplug"  # `--model mplug`, or `--model mplug:FOLDER`


class MPlug:
    """A `VisionLanguageModel` that answers one question about one image; beam search as its own configuration says.

    Args:
        pipeline: modelscope's visual-question-answering pipeline.
        revision: tells weights and library apart.
    """

    def __init__(self, pipeline: Any, revision: str) -> None:
        self._pipeline = pipeline
        self.revision = revision
        self.settings: dict[str, Any] = {"decoding": "the pipeline's own"}

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """The pipeline's text, unchanged. How long it may be is in the weights' configuration, not in `max_new_tokens`."""
        texts = []
        for parts in batch:
            image, question = parts
            assert isinstance(image, Image.Image)
            texts.append(str(self._pipeline({"image": image, "question": question})["text"]))
        return texts

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """Raises UserError: the pipeline gives no probabilities."""
        raise UserError("mPLUG: its pipeline answers in words and gives no probabilities")


def load(weights: str = WEIGHTS, device: str = "cpu") -> MPlug:
    """The pipeline with these weights: a folder, or a name at modelscope.

    Args:
        device: as torch names it.

    Raises:
        UserError: modelscope, a package that it needs, or the weights cannot be had.
    """
    try:
        from modelscope import __version__ as version
        from modelscope.pipelines import pipeline
        from modelscope.utils.constant import Tasks
    except Exception as error:  # modelscope's own imports fail in many ways beside other packages' versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--model {SPEC}: modelscope cannot be loaded ({first}); `pip install -e '.[mplug]'` in an environment of its own, "
            "or name a vision-language model as judge"
        ) from None
    try:
        made = pipeline(Tasks.visual_question_answering, model=weights, device=device)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--model {SPEC}: {weights}: cannot be loaded ({first}); see docs/dpg.md") from None
    folder = Path(made.model.model_dir)
    files = {
        path.name: file_sha256(path) for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".yaml", ".json", ".txt")
    }
    return MPlug(made, f"mplug {content_hash(files)[:16]}, modelscope {version}")
