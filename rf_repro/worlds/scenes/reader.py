"""Questions about scenes as a model reads them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evaluators.vlm.protocol import Parts, images_of, text_of
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packing import to_tensor
from rf_repro.data.scenes.tokenizer import SceneTokenizer


class SceneReader:
    """One image of the world's size, and the world's words."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._words = SceneTokenizer(config.data.scenes)
        self._side = config.max_image_size
        self.eos_id, self.vocab_size = self._words.eos_id, self._words.vocab_size

    def prompt(self, parts: Parts) -> list[Tensor]:
        images, side = images_of(parts), self._side
        if len(images) != 1 or images[0].size != (side, side):
            sizes = ", ".join("{}x{}".format(*image.size) for image in images) or "none"
            raise UserError(f"a scenes model takes one image of {side}x{side} pixels a question; this one has {sizes}")
        (ids,) = self._words.encode_prompts([text_of(parts)])
        return [to_tensor(np.asarray(images[0].convert("RGB"))), torch.tensor(ids)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode_answers([ids])[0]

    def answer(self, text: str) -> list[int]:
        return self._words.encode_prompts([text])[0][1:]
