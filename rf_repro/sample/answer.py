"""Answers to questions about images: greedy, token by token, with the prefix computed once (paper: understanding samples).

A prompt is what comes before an answer, as segments of B samples of one layout: images float32 [B, 3, H, W] in [-1, 1], and ids
int64 [B, T]; ids come last. Training has one image, in front; the layouts allow others.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from rf_repro.model.attention import KVCache
from rf_repro.model.layout import SampleLayout, Span
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.decoding import TokenDecoder


@torch.no_grad()
def generate(model: RFModel, prompt: Sequence[Tensor], eos_id: int, max_new_tokens: int) -> Tensor:
    """The most likely next tokens after a prompt, until every row has had its eos.

    Returns:
        int64 [B, n], n <= max_new_tokens; what follows a row's eos means nothing.
    """
    caches, layout, states = _read(model, prompt, room=max_new_tokens)
    spans = (*layout.spans[:-1], Span("text", layout.spans[-1].length + max_new_tokens))
    decode = TokenDecoder(model, caches, SampleLayout(spans, num_cached=layout.length), len(prompt[-1]))
    hidden, generated = states[:, -1], list[Tensor]()
    ended = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    while True:
        token = model.text_logits(hidden).argmax(-1)
        generated.append(token)
        ended |= token == eos_id
        if len(generated) == max_new_tokens or bool(ended.all()):
            return torch.stack(generated, 1)
        hidden = decode(model.text_embedding(token), len(generated) - 1)


def next_token_logits(model: RFModel, prompt: Sequence[Tensor]) -> Tensor:
    """Of the first token of an answer, [B, V]."""
    return answer_logits(model, prompt, prompt[-1][:, :0])[:, 0]


@torch.no_grad()
def answer_logits(model: RFModel, prompt: Sequence[Tensor], answer: Tensor) -> Tensor:
    """Of each token of given answers int64 [B, n], and of the one after them: [B, n + 1, V]."""
    _, _, hidden = _read(model, [*prompt[:-1], torch.cat([prompt[-1], answer], 1)])
    return model.text_logits(hidden[:, -1 - answer.shape[1] :])


def _read(model: RFModel, prompt: Sequence[Tensor], room: int = 0) -> tuple[list[KVCache], SampleLayout, Tensor]:
    """Runs a prompt through the decoder: the caches that hold it, with room for more tokens, its layout, and its hidden states
    [B, S, D]."""
    if prompt[-1].is_floating_point():
        raise ValueError("a prompt must end with text")
    images = [segment for segment in prompt if segment.is_floating_point()]
    features = iter(model.embed_images(images) if images else [])
    spans, tokens = [], []
    for segment in prompt:
        if segment.is_floating_point():
            grid = model.feature_grid((segment.shape[2], segment.shape[3]))
            spans.append(Span("image", prod(grid), grid))
            tokens.append(next(features))
        else:
            spans.append(Span("text", segment.shape[1]))
            tokens.append(model.text_embedding(segment))
    layout = SampleLayout(tuple(spans))
    caches = model.decoder.new_caches(prompt[-1].shape[0], layout.length + room)
    return caches, layout, model.extend(caches, layout, torch.cat(tokens, 1))
