"""A run's model as the evaluators' `VisionLanguageModel`: it answers greedily, with the averaged weights of the last checkpoint.

Questions of one layout (sizes of images, tokens of text) go through together, without padding, so that a reply depends on its
batch in the last bits at most.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluators.vlm.protocol import Parts, SomeFailed, images_of, text_of
from rf_repro.config.overrides import from_dict
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images
from rf_repro.data.prepare import target_size
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.shards.images import resize
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.model.rf_model import RFModel
from rf_repro.pipeline import last_checkpoint
from rf_repro.sample.answer import generate, next_token_logits
from rf_repro.sampling import load_model
from rf_repro.train.checkpoint import step_of


class PromptReader(Protocol):
    """How a world's model reads questions and spells answers."""

    eos_id: int
    vocab_size: int

    def prompt(self, parts: Parts) -> list[Tensor]:
        """Segments without their batch axis: images float32 [3, H, W] in [-1, 1], ids int64 [T]. Raises UserError when the model
        cannot be asked this."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """An answer up to its eos."""
        ...

    def first_token(self, spelling: str) -> int | None:
        """Of an answer; None where it tells nothing: a word that the model lacks, or white space alone."""
        ...


class SceneReader:
    """The scenes world: one image of the world's size, and the world's words."""

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
        return [_tensor(np.asarray(images[0].convert("RGB"))), torch.tensor(ids)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode_answers([ids])[0]

    def first_token(self, spelling: str) -> int | None:
        try:
            return ([*self._words.encode_prompts([spelling])[0], None])[1]
        except UserError:  # not a word of this world: never said
            return None


class ImageTextReader:
    """The image_text world: Qwen's chat form, images first, as in training (rf_repro.data.text_tokenizer).

    An image keeps its aspect ratio up to rounding; its sides are multiples of `config.image_stride`, and the longer one is the
    image's own within what the last stage trained on: the size that training gives it where it draws the largest.

    Several images are assumed, training has one a question: all in front, each followed by `<|vision_end|>`, and `<image 1>`,
    `<image 2>`, ... in the question where they stood.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self._words = ImageTextTokenizer.from_config(config)
        self._stride, stage = config.image_stride, config.stages[-1]
        self._largest = stage.max_image_size
        self._smallest = stage.min_image_size or stage.max_image_size
        self.eos_id, self.vocab_size = self._words.eos_id, self._words.vocab_size

    def prompt(self, parts: Parts) -> list[Tensor]:
        images = images_of(parts)
        ids = torch.from_numpy(self._words.prompt(_question(parts), bool(images)))
        segments: list[Tensor] = []
        for image in images:
            segments += [self.pixels(image), ids[:1]]  # the question's first token, `<|vision_end|>`
        return [*segments[:-1], ids]

    def pixels(self, image: Image.Image) -> Tensor:
        """Float32 [3, H, W] in [-1, 1]."""
        own = -(-max(image.size) // self._stride) * self._stride
        longer = max(self._smallest, min(own, self._largest))
        return _tensor(resize(np.asarray(image.convert("RGB")), *target_size(*image.size, longer, self._stride)))

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode_answer(ids)

    def first_token(self, spelling: str) -> int | None:
        """Of the answer alone, as training cuts it: what stands before it changes nothing."""
        ids = self._words.answer(spelling)
        return ids[0] if ids and (self._words.decode(ids[:1]).strip() or not spelling.strip()) else None


class RFVisionLanguageModel:
    """The model of a run.

    Args:
        model: on its device, in evaluation mode.
        revision: tells runs and their steps apart.
        step: optimiser steps that its weights have seen.
    """

    def __init__(self, model: RFModel, reader: PromptReader, revision: str, step: int) -> None:
        self._model, self._reader = model, reader
        self._device = model.text_embedding.weight.device
        self.revision, self.step = revision, step
        dtype = str(model.text_embedding.weight.dtype).removeprefix("torch.")
        self.settings: dict[str, Any] = {"decoding": "greedy", "weights": "ema", "dtype": dtype}

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """As of `VisionLanguageModel`; `max_new_tokens` counts the end of an answer.

        Raises:
            SomeFailed: of questions that the model cannot be asked.
            UserError: they do not fit in memory together.
        """

        def run(prompt: list[Tensor], rows: Sequence[int]) -> list[str]:
            tokens = generate(self._model, prompt, self._reader.eos_id, max_new_tokens)
            return [self._reader.decode(row) for row in tokens.tolist()]

        return self._reply(batch, run)

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        """As of `VisionLanguageModel`: softmax in float32 over all rows of the embedding table. A spelling without a first token
        (`PromptReader.first_token`) has no probability."""

        def run(prompt: list[Tensor], rows: Sequence[int]) -> list[list[float]]:
            found = next_token_logits(self._model, prompt).float().softmax(-1).cpu()
            return [[_mass(found[i], self._tokens(group)) for group in choices[row]] for i, row in enumerate(rows)]

        return self._reply(batch, run)

    def _tokens(self, spellings: Sequence[str]) -> list[int]:
        tokens = dict.fromkeys(self._reader.first_token(spelling) for spelling in spellings)
        return [token for token in tokens if token is not None]

    def _reply(self, batch: Sequence[Parts], run: Callable[[list[Tensor], Sequence[int]], list[Any]]) -> list[Any]:
        prompts: dict[int, list[Tensor]] = {}
        reasons: dict[int, str] = {}
        for row, parts in enumerate(batch):
            try:
                prompts[row] = self._reader.prompt(parts)
            except UserError as error:
                reasons[row] = str(error)
        layouts: dict[tuple[torch.Size, ...], list[int]] = {}
        for row, prompt in prompts.items():
            layouts.setdefault(tuple(segment.shape for segment in prompt), []).append(row)
        replies: list[Any] = [None] * len(batch)
        for rows in layouts.values():
            together = [torch.stack(segments).to(self._device) for segments in zip(*(prompts[row] for row in rows), strict=True)]
            try:
                found = run(together, rows)
            except torch.OutOfMemoryError:
                raise UserError(f"{len(rows)} questions at once do not fit in memory; lower --batch-size") from None
            for row, reply in zip(rows, found, strict=True):
                replies[row] = reply
        if reasons:
            raise SomeFailed(replies, reasons)
        return replies


def load_rf_vlm(run: RunDir, device: torch.device) -> RFVisionLanguageModel:
    """The averaged weights of a run's last checkpoint, in the run's own precision.

    Raises:
        UserError: the run has no checkpoint, or its tokenizer cannot be read.
    """
    config, record, checkpoint = from_dict(run.config()), run.record(), last_checkpoint(run)
    reader: PromptReader = SceneReader(config) if config.data.world == "scenes" else ImageTextReader(config)
    model = load_model(config, checkpoint, reader.vocab_size, device)
    name = f"{record.scale}/{record.variant}/{record.config_hash[:12]}-s{record.seed}"
    return RFVisionLanguageModel(model, reader, f"run {name} step {step_of(checkpoint)}", step_of(checkpoint))


def _question(parts: Parts) -> str:
    """The text; with several images, numbers where they stand."""
    if len(images_of(parts)) < 2:
        return text_of(parts)
    words, number = [], 0
    for part in parts:
        if isinstance(part, str):
            words.append(part)
        else:
            number += 1
            words.append(f"<image {number}>")
    return "".join(words)


def _tensor(pixels: np.ndarray) -> Tensor:
    return to_images(torch.from_numpy(np.array(pixels))[None])[0]


def _mass(probabilities: Tensor, tokens: Sequence[int]) -> float:
    return float(probabilities[list(tokens)].sum())
