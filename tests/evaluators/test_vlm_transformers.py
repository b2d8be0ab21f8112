"""transformers models against plain calls of the library: one question at a time, one forward pass a token."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.vlm.protocol import Parts, SomeFailed
from evaluators.vlm.transformers_model import TransformersVLM, load_transformers_vlm
from rf_repro.core.errors import UserError
from tests.evaluators.tiny_chat import save_tiny_chat
from tests.evaluators.tiny_vlm import save_tiny_vlm

transformers = pytest.importorskip("transformers", reason="the extra `vlm` is not installed")

CPU = torch.device("cpu")
MOST = 8
KINDS = ("qwen2_5_vl", "qwen3_vl", "internvl")


def picture(seed: int, width: int, height: int) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height))


BATCH: list[Parts] = [
    (picture(0, 40, 24), "what is in the image?"),
    (picture(1, 24, 24), "how many shapes are there?"),
    ("is it above ", picture(2, 16, 56), " or below ", picture(3, 90, 90), "? the answer is"),
    ("a text alone",),
    (picture(4, 33, 47), "what is in the image?"),
    (picture(5, 33, 47), "what is in the image?"),
]
CHOICES = [(("yes", "Yes", " yes"), ("no", "No"))] * 5 + [(("red", " red", "red circle"), ("three", "3", " 3"), ("a",))]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersVLM:
    return load_transformers_vlm(str(folder), CPU)


@pytest.fixture(scope="module")
def parts_of_library(folder: Path) -> tuple[Any, Any]:
    return (
        transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval(),
        transformers.AutoProcessor.from_pretrained(folder),
    )


def prompt_of(parts: Parts, processor: Any) -> str:
    mark = "<|vision_start|><|image_pad|><|vision_end|>" if "Qwen" in type(processor).__name__ else "<IMG_CONTEXT>\n"
    text = "".join(part if isinstance(part, str) else mark for part in parts)
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


@torch.no_grad()
def logits_after(library: tuple[Any, Any], parts: Parts, answer: list[int]) -> torch.Tensor:
    """Float32 [V], by one pass over all tokens before."""
    model, processor = library
    images = [part for part in parts if not isinstance(part, str)]
    inputs = processor(text=[prompt_of(parts, processor)], images=[images] if images else None, return_tensors="pt")
    more = torch.tensor([answer], dtype=torch.int64)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(more)], 1)
    return model(**inputs).logits[0, -1]


def test_answers_are_greedy_whatever_the_batch_and_the_models_own_settings(
    model: TransformersVLM, parts_of_library: tuple[Any, Any]
) -> None:
    assert parts_of_library[0].generation_config.do_sample
    end = parts_of_library[1].tokenizer.eos_token_id
    expected, lengths = [], []
    for parts in BATCH:
        answer: list[int] = []
        while len(answer) < MOST and end not in answer:
            answer.append(int(logits_after(parts_of_library, parts, answer).argmax()))
        expected.append(parts_of_library[1].tokenizer.decode(answer, skip_special_tokens=True))
        lengths.append(len(answer))
    assert len(set(expected)) > 3, "the test means something only where answers differ"
    first, second = (logits_after(parts_of_library, parts, []).softmax(-1) for parts in BATCH[4:])
    assert (first - second).abs().sum() > 1e-2, "the image must matter"
    assert min(lengths) < MOST
    assert model.answer(BATCH, MOST) == expected
    assert [model.answer([parts], MOST)[0] for parts in BATCH] == expected
    assert model.answer(BATCH[::-1], MOST) == expected[::-1]


def test_probabilities_are_of_the_distinct_first_tokens(model: TransformersVLM, parts_of_library: tuple[Any, Any]) -> None:
    tokenizer = parts_of_library[1].tokenizer

    def first(text: str) -> int:
        return tokenizer(text, add_special_tokens=False)["input_ids"][0]

    assert first("red") == first("red circle"), "counted once"
    assert tokenizer.decode([first(" 3")]) == " ", "the bare space that is left out"
    expected = []
    for parts, groups in zip(BATCH, CHOICES, strict=True):
        probabilities = logits_after(parts_of_library, parts, []).double().softmax(-1)
        ids = [{first(spelling) for spelling in group} - {first(" 3")} for group in groups]
        expected.append([float(probabilities[list(group)].sum()) for group in ids])
    together = model.choice_probabilities(BATCH, CHOICES)
    alone = [model.choice_probabilities([parts], [groups])[0] for parts, groups in zip(BATCH, CHOICES, strict=True)]
    assert [len(row) for row in together] == [2] * 5 + [3]
    for one, other, true in zip(together, alone, expected, strict=True):
        np.testing.assert_allclose(other, true, rtol=1e-5)
        np.testing.assert_allclose(one, true, rtol=1e-5)
    everything = model.choice_probabilities(BATCH[:1], [[[chr(code) for code in range(33, 127)]]])[0][0]
    assert 0 < everything < 1


def test_special_tokens_in_spellings_are_text_and_in_questions_a_failure(
    model: TransformersVLM, parts_of_library: tuple[Any, Any]
) -> None:
    (row,) = model.choice_probabilities(BATCH[:1], [(("<|im_end|>",), ("<",))])
    assert row[0] == row[1] > 0
    refused: Parts
    if "Qwen" in type(parts_of_library[1]).__name__:
        mark, refused, why = "<|image_pad|>", (picture(0, 2, 900), "what is in the image?"), "aspect ratio"  # over 200
    else:  # takes any image
        mark, refused, why = "<IMG_CONTEXT>", ("a <video>?",), "spells the special token <video>"
    spelt = (picture(0, 24, 24), f"what does {mark} say?")
    with pytest.raises(SomeFailed) as failed:
        model.answer([BATCH[0], spelt, BATCH[1], refused], MOST)
    assert failed.value.replies == [*model.answer(BATCH[:1], MOST), None, *model.answer(BATCH[1:2], MOST), None]
    assert f"spells the special token {mark}" in failed.value.reasons[1]
    assert why in failed.value.reasons[3]
    with pytest.raises(SomeFailed) as failed:
        model.choice_probabilities([refused, BATCH[0]], [CHOICES[0]] * 2)
    assert failed.value.replies == [None, *model.choice_probabilities(BATCH[:1], CHOICES[:1])]
    with pytest.raises(UserError, match=r"no first token tells \[' 3'\] from others"):
        model.choice_probabilities(BATCH[:1], [((" 3",),)])


def test_the_prompt_before_a_spelling_decides_its_token(model: TransformersVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a space a word begins without one, and where both merge it is taken alone."""
    encode = model._encode
    assert model._first_token("assistant\n", "the") == encode("the")[0]
    assert model._first_token("assistant:", " the") == encode(" the")[0] != encode("the")[0]
    assert encode("assistant: the")[: len(encode("assistant: "))] != encode("assistant: ")
    assert model._first_token("assistant: ", "the") == encode("the")[0]


def test_revisions_tell_files_apart_and_errors_are_one_line(tmp_path: Path) -> None:
    first, same = (save_tiny_vlm(tmp_path / name) for name in ("first", "same"))
    other = save_tiny_vlm(tmp_path / "other", seed=1)
    revisions = [load_transformers_vlm(str(folder), CPU).revision for folder in (first, same, other)]
    assert revisions[0] == revisions[1] != revisions[2]
    (same / "chat_template.jinja").write_text("{{ messages }}")
    assert load_transformers_vlm(str(same), CPU).revision != revisions[0]
    (same / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"has no chat template; choose a model tuned for chat$"):
        load_transformers_vlm(str(same), CPU)
    with pytest.raises(UserError, match=r"^model='.*nowhere.*': must be a folder that exists, or a hub id organisation/name"):
        load_transformers_vlm(str(tmp_path / "nowhere" / "at" / "all"), CPU)
    chat = save_tiny_chat(tmp_path / "chat")
    with pytest.raises(UserError, match="a qwen3 answers no questions about images"):
        load_transformers_vlm(str(chat), CPU)
