"""A run's model as the evaluators' `VisionLanguageModel`: it answers greedily, with the averaged weights of the last checkpoint.

Questions of one layout (sizes of images, tokens of text) go through together, without padding, so that a reply depends on its
batch in the last bits at most.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
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
from rf_repro.experiment.run import last_checkpoint
from rf_repro.experiment.sampling import load_model
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.answer import answer_logits, generate, next_token_logits
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

    def answer(self, text: str) -> list[int]:
        """The ids of an answer, without its eos, cut as in training. Raises UserError when the model cannot say it."""
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

    def answer(self, text: str) -> list[int]:
        return self._words.encode_prompts([text])[0][1:]


class ImageTextReader:
    """The image_text world: Qwen's chat form, images first, as in training (rf_repro.data.text_tokenizer).

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

    def answer(self, text: str) -> list[int]:
        return self._words.answer(text)  # by itself, as in training: what stands before it changes nothing


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
        """As of `VisionLanguageModel`: softmax in float32 over all rows of the embedding table.

        A spelling that the model cannot say, such as a word that its world lacks, has no probability; nor has one whose first
        token is white space alone, as of " 4", which tells nothing of what follows.
        """

        def run(prompt: list[Tensor], rows: Sequence[int]) -> list[list[float]]:
            found = next_token_logits(self._model, prompt).float().softmax(-1).cpu()
            return [[_mass(found[i], self._tokens(group)) for group in choices[row]] for i, row in enumerate(rows)]

        return self._reply(batch, run)

    def continuation_loss(self, parts: Parts, continuation: str) -> tuple[float, bool]:
        """Mean cross-entropy, nats a token, of an answer that is `continuation` without its outer white space (training strips
        answers) and goes on from there; and whether greedy decoding says it.

        Raises:
            UserError: the model cannot be asked this, cannot say it, or it is empty.
        """
        ids = self._reader.answer(continuation.strip())
        if not ids:
            raise UserError(f"continuation {continuation!r}: must not be empty")
        prompt = [segment[None].to(self._device) for segment in self._reader.prompt(parts)]
        answer = torch.tensor([ids], device=self._device)
        logits = answer_logits(self._model, prompt, answer)[0, :-1].float()
        return float(F.cross_entropy(logits, answer[0])), bool((logits.argmax(-1) == answer[0]).all())

    def _tokens(self, spellings: Sequence[str]) -> list[int]:
        """The distinct first tokens of a group."""
        found = []
        for spelling in spellings:
            try:
                ids = self._reader.answer(spelling)[:1]
            except UserError:
                continue
            if ids and (self._reader.decode(ids) or not spelling.strip()):
                found += ids
        return list(dict.fromkeys(found))

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
    """The averaged weights of a run's last checkpoint, in the device's arithmetic.

    Raises:
        UserError: the run has no checkpoint, or its tokenizer cannot be read.
    """
    config, record, checkpoint = from_dict(run.config()), run.record(), last_checkpoint(run)
    reader: PromptReader = SceneReader(config) if config.data.world == "scenes" else ImageTextReader(config)
    model = load_model(config, checkpoint, reader.vocab_size, device)
    name = f"{record.scale}/{record.variant}/{record.config_hash[:12]}-s{record.seed}"
    return RFVisionLanguageModel(model, reader, f"run {name} step {step_of(checkpoint)}", step_of(checkpoint))


def _question(parts: Parts) -> str:
    """The text; where several images do not all stand in front of it, with their numbers in their places."""
    images = images_of(parts)
    if len(images) < 2 or not any(isinstance(part, str) and part for part in parts[: len(images)]):
        return text_of(parts)
    words, number = [], 0
    for part in parts:
        number += not isinstance(part, str)
        words.append(part if isinstance(part, str) else f"<image {number}>")
    return "".join(words)


def _tensor(pixels: np.ndarray) -> Tensor:
    return to_images(torch.from_numpy(np.array(pixels))[None])[0]


def _mass(probabilities: Tensor, tokens: Sequence[int]) -> float:
    return float(probabilities[list(tokens)].sum())
