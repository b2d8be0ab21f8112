"""Questions about photographs as a model reads them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluators.vlm.protocol import Parts, images_of, text_of
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packing import to_tensor
from rf_repro.data.prepare import target_size
from rf_repro.data.shards.images import resize
from rf_repro.data.text_tokenizer import ImageTextTokenizer


class ImageTextReader:
    """Qwen's chat form, images first, as in training (rf_repro.data.text_tokenizer).

    An image keeps its aspect ratio up to rounding; its sides are multiples of `config.image_stride`, and the longer one is the
    image's own within what the last stage trained on: the size that training gives it where it draws the largest.

    Several images are assumed, training has one a question: all in front, each followed by `<|vision_end|>`; where they stood
    elsewhere in the question, it has `<image 1>`, `<image 2>`, ... in their places.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self._words = ImageTextTokenizer.from_config(config)
        self._stride, stage = config.image_stride, config.stages[-1]
        self._largest = stage.max_image_size
        self._smallest = stage.min_image_size or stage.max_image_size
        self.eos_id, self.vocab_size = self._words.eos_id, self._words.vocab_size

    def prompt(self, parts: Parts) -> list[Tensor]:
        images = images_of(parts)
        ids = torch.from_numpy(self._words.prompt(question_text(parts), bool(images)))
        segments: list[Tensor] = []
        for image in images:
            segments += [self.pixels(image), ids[:1]]  # the question's first token, `<|vision_end|>`
        return [*segments[:-1], ids]

    def pixels(self, image: Image.Image) -> Tensor:
        """Float32 [3, H, W] in [-1, 1]."""
        own = -(-max(image.size) // self._stride) * self._stride
        longer = max(self._smallest, min(own, self._largest))
        return to_tensor(resize(np.asarray(image.convert("RGB")), *target_size(*image.size, longer, self._stride)))

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode_answer(ids)

    def answer(self, text: str) -> list[int]:
        return self._words.answer(text)  # by itself, as in training: what stands before it changes nothing


def question_text(parts: Parts) -> str:
    """The text; where several images do not all stand in front of it, with their numbers in their places."""
    images = images_of(parts)
    if len(images) < 2 or not any(isinstance(part, str) and part for part in parts[: len(images)]):
        return text_of(parts)
    words, number = [], 0
    for part in parts:
        number += not isinstance(part, str)
        words.append(part if isinstance(part, str) else f"<image {number}>")
    return "".join(words)
