"""A model's answers to questions about scenes."""

from collections.abc import Sequence

import numpy as np
import torch

from rf_repro.data.packing import to_images
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.answer import generate


def answer_questions(
    model: RFModel,
    images: np.ndarray,
    questions: Sequence[str],
    tokenizer: SceneTokenizer,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy answers. Questions of one length go through together, without padding, so an answer does not depend on its batch.

    Args:
        images: uint8 [N, S, S, 3], one a question.
        max_new_tokens: tokens of an answer at most, its eos included; >= 1. A longer answer is cut off.
        batch_size: questions at a time, >= 1.

    Returns:
        N answers, words separated by spaces, in the order of the questions.

    Raises:
        UserError: a question holds an unknown word.
        ValueError: images and questions differ in number, or a limit is below 1.
    """
    if len(images) != len(questions):
        raise ValueError(f"{len(images)} images for {len(questions)} questions; give one image a question")
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}, batch_size={batch_size}: both must be >= 1")
    device = model.text_embedding.weight.device
    prompts = tokenizer.encode_prompts(questions)
    answers = [""] * len(prompts)
    for length in sorted({len(prompt) for prompt in prompts}):
        same = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        for first in range(0, len(same), batch_size):
            rows = same[first : first + batch_size]
            pixels = to_images(torch.from_numpy(images[rows])).to(device)
            ids = torch.tensor([prompts[row] for row in rows], device=device)
            generated = generate(model, [pixels, ids], tokenizer.eos_id, max_new_tokens)
            for row, answer in zip(rows, tokenizer.decode_answers(generated.tolist()), strict=True):
                answers[row] = answer
    return answers
