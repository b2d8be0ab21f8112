"""From a stored sample to what it costs in a pack: its ids, the size its image will have, its tokens. Nothing is decoded.

H, W pixels of an image's sides in the pack; T text tokens; N image features or representation tokens, P pixel patches.
"""

from dataclasses import dataclass

import numpy as np

from rf_repro.config.data_schema import SourceConfig
from rf_repro.config.registry import REPRESENTATIONS
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import Part, StageConfig
from rf_repro.core.hashing import derive_seed
from rf_repro.core.untrusted.problems import CorruptSample
from rf_repro.data.filters import Reason, image_reason, text_reason
from rf_repro.data.shards.images import image_size
from rf_repro.data.shards.samples import RawSample
from rf_repro.data.source_reader import Reference
from rf_repro.data.text_tokenizer import ImageTextTokenizer


@dataclass(frozen=True)
class Prepared:
    """A sample that can wait for a pack.

    Attributes:
        task: of its source.
        image: as stored, None where it has none.
        size: (H, W), (0, 0) without an image.
        ids, mask: int64 and bool [T]; mask None: not learned (a caption).
        tokens: of the packed sequence.
    """

    reference: Reference
    key: str
    task: str
    image: bytes | None
    size: tuple[int, int]
    ids: np.ndarray
    mask: np.ndarray | None
    tokens: int


def sample_tokens(config: ExperimentConfig, task: str, height: int, width: int, num_text: int) -> int:
    """Tokens of a sample in the packed sequence (the model's layouts; paper Sec. 3.2).

    To generate: T + P, and 1 + N where there are representation tokens; to understand: N + T; height = 0: no image, T.
    """
    tokens = most_tokens(config, task, height, width, num_text)
    if task != "generation" or REPRESENTATIONS.get(config.representation.kind).has_tokens:
        return tokens
    return tokens - 1 - _features(config, height, width)


def most_tokens(config: ExperimentConfig, task: str, height: int, width: int, num_text: int) -> int:
    """Tokens of a sample in whichever variant has most of them: with representation tokens, where it is generated."""
    features, patch = _features(config, height, width), config.model.pixel.patch_size
    if task != "generation":
        return num_text + features
    return num_text + 1 + features + (height // patch) * (width // patch)


def _features(config: ExperimentConfig, height: int, width: int) -> int:
    pooled = 2 * config.model.encoder.patch_size
    return (height // pooled) * (width // pooled)


def target_size(width: int, height: int, longer: int, stride: int) -> tuple[int, int]:
    """(H, W) of an image whose longer side becomes `longer`: the aspect ratio is kept up to rounding to multiples of stride."""
    shorter = max(stride, round(longer * min(width, height) / max(width, height) / stride) * stride)
    return (shorter, longer) if width >= height else (longer, shorter)


class Preparer:
    """How samples of one stage are prepared; a function of the sample's reference and the seed.

    Sizes, ids and what is left out are the same for variants whose patches are of one size, the encoder's and the pixels': sides
    are multiples of both, and the encoder's patches make the tokens of an image to be understood.
    """

    def __init__(self, config: ExperimentConfig, stage: StageConfig, seed: int, tokenizer: ImageTextTokenizer) -> None:
        self.config, self.stage, self.seed, self.tokenizer = config, stage, seed, tokenizer
        self._stride = config.image_stride
        self._smallest = stage.min_image_size or stage.max_image_size

    def __call__(self, raw: RawSample, source: SourceConfig, reference: Reference) -> Prepared | Reason:
        """The sample, or why it is left out.

        Raises:
            CorruptSample: it lacks its image, or that is none.
        """
        filters = self.config.data.filters
        spoken = sum(len(turn.question) + len(turn.answer) for turn in raw.turns)
        if reason := text_reason(spoken if raw.turns else len(raw.text), filters):
            return reason
        size, image = (0, 0), None if source.task == "text" else raw.image
        if image is not None:
            width, height = image_size(image, filters.max_pixels)
            if reason := image_reason(width, height, filters):
                return reason
            size = target_size(width, height, self.longer_side(reference, max(width, height)), self._stride)
        elif source.task == "generation":
            raise CorruptSample("has no image")
        ids, mask = self._tokenize(raw, source.task, image is not None)
        if mask is not None and not mask[1:].any():
            return "no answer"
        part: Part = "generation" if source.task == "generation" else "understanding"
        if most_tokens(self.config, source.task, *size, len(ids)) > self.stage.part_tokens(part):
            return "over budget"  # for all variants or none
        tokens = sample_tokens(self.config, source.task, *size, len(ids))
        return Prepared(reference, f"{source.name}/{raw.key}", source.task, image, size, ids, mask, tokens)

    def longer_side(self, reference: Reference, present: int) -> int:
        """Pixels of the longer side: uniform among the multiples of the stride that the stage allows (paper App. A), but no
        larger than the image is, up to rounding, if that is allowed (assumed: enlarging adds tokens and no content)."""
        drawn = derive_seed(
            "size", self.seed, self.stage.name, reference.source, reference.epoch, reference.shard, reference.index
        )  # fmt: skip
        choices = (self.stage.max_image_size - self._smallest) // self._stride + 1
        own = -(-present // self._stride) * self._stride
        return max(self._smallest, min(self._smallest + drawn % choices * self._stride, own))

    def _tokenize(self, raw: RawSample, task: str, with_image: bool) -> tuple[np.ndarray, np.ndarray | None]:
        data = self.config.data
        if task == "generation":
            return self.tokenizer.caption(raw.text, data.caption_tokens), None
        if raw.turns:
            return self.tokenizer.conversation(raw.turns, with_image, data.answer_tokens)
        return self.tokenizer.text(raw.text, data.answer_tokens, with_image)
