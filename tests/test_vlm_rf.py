"""A run as VisionLanguageModel against plain full forwards of its averaged weights, one question at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluators.vlm.protocol import Parts, SomeFailed
from rf_repro.config.overrides import from_dict
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.shards.images import resize
from rf_repro.data.shards.samples import Turn
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.experiment.load import last_checkpoint
from rf_repro.experiment.vlm import load_rf_vlm
from rf_repro.model.initialise import initialise
from rf_repro.model.inputs import UnderstandingInput
from rf_repro.model.layout import SampleLayout, Span
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.answer import next_token_logits
from rf_repro.sample.vlm import RFVisionLanguageModel
from rf_repro.train.checkpoint import load_weights
from rf_repro.worlds.image_text.reader import ImageTextReader
from rf_repro.worlds.scenes.answers import answer_questions
from rf_repro.worlds.scenes.reader import SceneReader
from tests.model.small import run as run_model
from tests.model.small import small_config
from tests.tiny_run import STEP, tiny_changes, write_run

CPU = torch.device("cpu")
MOST = 5


def picture(seed: int, width: int, height: int) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height))


BATCH: list[tuple[Parts, tuple[int, int]]] = [  # and the (H, W) that the image gets: sides of 64 to 96 pixels, multiples of 16
    ((picture(0, 300, 200), "what is in the image?"), (64, 96)),
    (("how many shapes are there?", picture(1, 40, 40)), (64, 64)),
    ((picture(2, 60, 85), "what is in the image?"), (96, 64)),
    ((picture(3, 301, 203), "what is in the image?"), (64, 96)),
    (("what is in the image?",), (0, 0)),
    ((picture(4, 80, 70), "is it <|im_end|> above?"), (64, 80)),
]
CHOICES = [(("yes", " yes", "Yes"), ("no", "No"))] * 5 + [(("red", "red circle", "rest"), ("three", "3", " 3"), (" 4",))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlm")


@pytest.fixture(scope="module")
def run(root: Path) -> RunDir:
    torch.manual_seed(0)  # for what `write_run` leaves as built
    return write_run(root / "runs", "pixel_rf-continued", tiny_changes(root / "tokenizer"), seed=3)


@pytest.fixture(scope="module")
def vlm(run: RunDir) -> RFVisionLanguageModel:
    return load_rf_vlm(run, CPU)


@pytest.fixture(scope="module")
def plain(run: RunDir) -> tuple[RFModel, ImageTextTokenizer]:
    config = from_dict(run.config())
    model = RFModel(config, config.model.decoder.vocab_size)
    model.load_state_dict(load_weights(last_checkpoint(run), ema=True))
    return model.eval(), ImageTextTokenizer.from_config(config)


def read(words: ImageTextTokenizer, parts: Parts, size: tuple[int, int]) -> tuple[Tensor | None, list[int]]:
    """The image as training resizes it, and the ids as training has them, up to the answer."""
    images = [part for part in parts if isinstance(part, Image.Image)]
    question = "".join(part for part in parts if isinstance(part, str))
    ids, mask = words.conversation([Turn(question, "answer")], bool(images), 1000)
    pixels = to_images(torch.from_numpy(resize(np.asarray(images[0]), *size)[None])) if images else None
    return pixels, ids[: int(mask.argmax())].tolist()


@torch.no_grad()
def logits_after(plain: tuple[RFModel, ImageTextTokenizer], parts: Parts, size: tuple[int, int], answer: list[int]) -> Tensor:
    """[V], by one forward over everything before."""
    pixels, ids = read(plain[1], parts, size)
    _, (logits,) = run_model(plain[0], [], [UnderstandingInput(pixels, torch.tensor([ids + answer]))])
    return logits[0, -1]


def test_answers_equal_full_forwards_whatever_the_batch(
    vlm: RFVisionLanguageModel, plain: tuple[RFModel, ImageTextTokenizer]
) -> None:
    words = plain[1]
    expected = []
    for parts, size in BATCH:
        answer: list[int] = []
        while len(answer) < MOST and words.eos_id not in answer:
            answer.append(int(logits_after(plain, parts, size, answer).argmax()))
        expected.append(words.decode_answer(answer))
    assert len(set(expected)) >= 4, "the test means something only where answers differ"
    assert expected[0] != expected[3], "the image must matter"
    batch = [parts for parts, _ in BATCH]
    assert vlm.answer(batch, MOST) == expected
    assert [vlm.answer([parts], MOST)[0] for parts in batch] == expected
    assert vlm.answer(batch[::-1], MOST) == expected[::-1]


def test_probabilities_are_of_the_distinct_first_tokens(
    vlm: RFVisionLanguageModel, plain: tuple[RFModel, ImageTextTokenizer]
) -> None:
    words = plain[1]

    def first(text: str) -> int:
        return words.answer(text)[0]

    assert first("red") == first("red circle"), "counted once"
    assert words.decode([first(" 3")]) == " ", "the bare space that is left out"
    expected = []
    for (parts, size), groups in zip(BATCH, CHOICES, strict=True):
        probabilities = logits_after(plain, parts, size, []).double().softmax(-1)
        ids = [{first(spelling) for spelling in group} - {first(" 3")} for group in groups]
        expected.append([float(probabilities[list(group)].sum()) for group in ids])
    batch = [parts for parts, _ in BATCH]
    together = vlm.choice_probabilities(batch, CHOICES)
    for index, true in enumerate(expected):
        np.testing.assert_allclose(together[index], true, rtol=1e-4)
        np.testing.assert_allclose(
            vlm.choice_probabilities(batch[index : index + 1], CHOICES[index : index + 1])[0], true, rtol=1e-4
        )
    assert expected[-1][-1] == 0.0


def test_continuations_are_scored_by_full_forwards(vlm: RFVisionLanguageModel, plain: tuple[RFModel, ImageTextTokenizer]) -> None:
    words = plain[1]
    for parts, size in BATCH:
        said: list[int] = []
        for _ in range(3):
            said.append(int(logits_after(plain, parts, size, said).argmax()))
        for text in (" red circle", "two", words.decode(said)):
            ids = words.answer(text.strip())
            logits = torch.stack([logits_after(plain, parts, size, ids[:count]) for count in range(len(ids))]).double()
            loss = -logits.log_softmax(-1)[range(len(ids)), ids].mean()
            found, is_greedy = vlm.continuation_loss(parts, text)
            assert found == pytest.approx(float(loss), rel=1e-5)
            assert is_greedy == (logits.argmax(-1).tolist() == ids)
    assert vlm.continuation_loss(BATCH[0][0], "two")[1] is False
    with pytest.raises(UserError, match="continuation ' ': must not be empty"):
        vlm.continuation_loss(BATCH[0][0], " ")


def test_several_images_stand_in_front(vlm: RFVisionLanguageModel, plain: tuple[RFModel, ImageTextTokenizer]) -> None:
    """Against the decoder fed span by span, where nothing later can have been seen."""
    model, words = plain
    first, second = picture(0, 96, 64), picture(1, 64, 64)
    parts: Parts = ("compare ", first, " with ", second, ".")
    ids = torch.from_numpy(words.prompt("compare <image 1> with <image 2>.", True))[None]
    segments = [*(to_images(torch.from_numpy(np.asarray(image)[None].copy())) for image in (first, second)), ids]
    spans: list[Span] = []
    caches = model.decoder.new_caches(1)
    with torch.no_grad():
        for segment in (segments[0], ids[:, :1], segments[1], ids):
            before = SampleLayout(tuple(spans)).length
            if segment.is_floating_point():
                (tokens,) = model.embed_images([segment])
                spans.append(Span("image", tokens.shape[1], model.feature_grid((segment.shape[2], segment.shape[3]))))
            else:
                tokens = model.text_embedding(segment)
                spans.append(Span("text", tokens.shape[1]))
            hidden = model.extend(caches, SampleLayout(tuple(spans), before), tokens)
        expected = model.text_logits(hidden[:, -1]).softmax(-1)
    prompt = [segment[None] for segment in ImageTextReader(model.config).prompt(parts)]
    assert [tuple(segment.shape) for segment in prompt] == [(1, 3, 64, 96), (1, 1), (1, 3, 64, 64), tuple(ids.shape)]
    torch.testing.assert_close(next_token_logits(model, prompt).softmax(-1), expected, rtol=1e-4, atol=1e-7)
    in_front = ImageTextReader(model.config).prompt((first, second, "compare <image 1> with <image 2>."))
    assert all(torch.equal(one, other[0]) for one, other in zip(in_front, prompt, strict=True))
    swapped: Parts = ("compare ", second, " with ", first, ".")
    rows = vlm.choice_probabilities([parts, swapped], [(("yes",),)] * 2)
    assert rows[0][0] == pytest.approx(float(expected[0, words.answer("yes")[0]]), rel=1e-4)
    assert abs(rows[0][0] - rows[1][0]) > 1e-3 * rows[0][0]


def test_sizes_follow_the_last_stage(run: RunDir) -> None:
    reader = ImageTextReader(from_dict(run.config()))
    for (width, height), shape in {
        (10, 10): (64, 64), (65, 65): (80, 80), (1000, 1000): (96, 96), (64, 64): (64, 64), (96, 50): (48, 96),
        (4000, 10): (16, 96),
    }.items():  # fmt: skip
        assert tuple(reader.pixels(picture(0, width, height)).shape) == (3, *shape)


def test_the_record_names_run_and_step(vlm: RFVisionLanguageModel, run: RunDir, tmp_path: Path) -> None:
    record = run.record()
    assert vlm.revision == f"run base/pixel_rf-continued/{record.config_hash[:12]}-s3 step {STEP}"
    assert vlm.step == STEP
    assert vlm.settings == {"decoding": "greedy", "weights": "ema", "dtype": "float32"}
    empty = write_run(tmp_path, "pixel", tiny_changes(tmp_path / "tokenizer"))
    for path in sorted(empty.checkpoints.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="no checkpoint; train the run first"):
        load_rf_vlm(empty, CPU)


# The scenes world


@pytest.fixture(scope="module")
def scenes() -> tuple[RFModel, RFVisionLanguageModel]:
    config = small_config()
    model = RFModel(config, SceneTokenizer(config.data.scenes).vocab_size)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), RFVisionLanguageModel(model, SceneReader(config), "small", 0)


def test_scenes_are_answered_as_in_training_runs(scenes: tuple[RFModel, RFVisionLanguageModel]) -> None:
    model, vlm = scenes
    words = SceneTokenizer(model.config.data.scenes)
    batch = SceneQuestions(model.config.data.scenes).held_out(2)
    parts: list[Parts] = [(Image.fromarray(image), text) for image, text in zip(batch.images, batch.questions, strict=True)]
    expected = answer_questions(model, batch.images, batch.questions, words, MOST, 8)
    assert len(set(expected)) > 4
    assert vlm.answer(parts, MOST) == expected
    found = vlm.choice_probabilities(parts, [(("red", "red circle", "dog"), ("dog", ""), ("two",))] * len(parts))
    for image, text, row in zip(batch.images, batch.questions, found, strict=True):
        ids = torch.tensor(words.encode_prompts([text]))
        pixels = to_images(torch.from_numpy(image[None]))
        with torch.no_grad():
            _, (logits,) = run_model(model, [], [UnderstandingInput(pixels, ids)])
        probabilities = logits[0, -1].softmax(-1)
        red, two = (words.encode_prompts([word])[0][1] for word in ("red", "two"))
        assert row == pytest.approx([float(probabilities[red]), 0.0, float(probabilities[two])], rel=1e-4)


def test_what_a_scenes_model_cannot_be_asked_fails_alone(scenes: tuple[RFModel, RFVisionLanguageModel]) -> None:
    model, vlm = scenes
    side = model.config.max_image_size
    image = picture(0, side, side)
    good: Parts = (image, "what is the word ?")
    bad: list[Parts] = [
        (image, "what is the dog ?"),
        (image, image, "what is the word ?"),
        (picture(0, 9, side), "what ?"),
        ("what ?",),
    ]
    with pytest.raises(SomeFailed) as failed:
        vlm.answer([bad[0], good, *bad[1:]], MOST)
    assert failed.value.replies == [None, *vlm.answer([good], MOST), None, None, None]
    reasons = [failed.value.reasons[row] for row in (0, 2, 3, 4)]
    assert "unknown word 'dog'" in reasons[0]
    for reason, sizes in zip(reasons[1:], (f"{side}x{side}, {side}x{side}", f"9x{side}", "none"), strict=True):
        assert reason == f"a scenes model takes one image of {side}x{side} pixels a question; this one has {sizes}"
