"""A trained model as the evaluators' `VisionLanguageModel`: it answers greedily.

Questions of one layout (sizes of images, tokens of text) go through together, without padding, so that a reply depends on its
batch in the last bits at most.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.answer import answer_logits, generate, next_token_logits
from rf_repro.sample.prompts import PromptReader


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


def _mass(probabilities: Tensor, tokens: Sequence[int]) -> float:
    return float(probabilities[list(tokens)].sum())
