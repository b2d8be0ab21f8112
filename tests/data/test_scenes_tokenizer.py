import json

import numpy as np
import pytest

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.grammar import all_prompts, vocabulary
from rf_repro.data.scenes.questions import question_vocabulary
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld

CONFIG = ScenesConfig(max_objects=4, image_size=32)
TOKENIZER = SceneTokenizer(CONFIG)


def test_rows_are_bos_words_eos_pad() -> None:
    words = ["a", "photo", "of", "three", "crosses"]
    ids = TOKENIZER.encode([" ".join(words), "a"], 8)
    assert ids.dtype == np.int64
    vocabulary = json.loads(TOKENIZER.to_json())["model"]["vocab"]
    assert ids.tolist() == [[1, *(vocabulary[word] for word in words), 2, 0], [1, vocabulary["a"], 2, 0, 0, 0, 0, 0]]


def test_every_caption_survives() -> None:
    captions = [prompt.caption(CONFIG) for prompts in all_prompts(CONFIG).values() for prompt in prompts]
    captions += ScenesWorld(CONFIG).train(np.arange(500)).dense_captions()
    ids = TOKENIZER.encode(captions, 16)
    assert TOKENIZER.decode(ids) == captions
    assert ids.max() < TOKENIZER.vocab_size == len(set(json.loads(TOKENIZER.to_json())["model"]["vocab"].values()))


def test_special_tokens_are_the_first_ids_and_not_decoded() -> None:
    assert (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.null_id) == (0, 1, 2, 3)
    vocabulary = json.loads(TOKENIZER.to_json())["model"]["vocab"]
    assert [vocabulary[word] for word in ("<pad>", "<bos>", "<eos>", "<null>")] == [0, 1, 2, 3]
    assert TOKENIZER.decode(np.array([[1, 3, 2, 0]])) == [""]


@pytest.mark.parametrize(
    ("text", "length", "named"),
    [
        ("a photo of a dog", 16, "unknown word 'dog'"),
        ("a photo of a circle", 6, "7 tokens, 6 are allowed"),
        ("a <pad>", 16, "<pad>"),
    ],
)
def test_what_cannot_be_encoded_is_refused(text: str, length: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        TOKENIZER.encode(["a circle", text], length)


def test_captions_keep_their_ids_and_questions_come_after() -> None:
    """Ids of caption words don't move when questions gain words."""
    words = list(json.loads(TOKENIZER.to_json())["model"]["vocab"])
    assert words[4 : 4 + len(vocabulary(CONFIG))] == vocabulary(CONFIG)
    assert set(words[4:]) == set(vocabulary(CONFIG)) | set(question_vocabulary(CONFIG))


def test_question_rows_are_bos_question_answer_eos_pad() -> None:
    ids, mask = TOKENIZER.encode_questions(["what is the word ?", "is there a red circle ?"], ["F A D", "yes"], 12)
    known = json.loads(TOKENIZER.to_json())["model"]["vocab"]
    rows = [
        [1, *(known[word] for word in text.split()), 2] for text in ("what is the word ? F A D", "is there a red circle ? yes")
    ]
    assert ids.dtype == np.int64
    assert ids.tolist() == [row + [0] * (12 - len(row)) for row in rows]
    assert mask.dtype == bool
    assert [np.flatnonzero(row).tolist() for row in mask] == [[6, 7, 8, 9], [7, 8]]
    assert TOKENIZER.encode_prompts(["what is the word ?", "is there a red circle ?"]) == [rows[0][:6], rows[1][:7]]
    assert known["A"] != known["a"]


def test_decoded_answers_end_at_eos_and_show_other_special_tokens() -> None:
    known = json.loads(TOKENIZER.to_json())["model"]["vocab"]
    rows = [[known["F"], known["A"], 2, known["yes"]], [2], [], [known["yes"], 0, 2], [3, 1]]
    assert TOKENIZER.decode_answers(rows) == ["F A", "", "", "yes <pad>", "<null> <bos>"]


@pytest.mark.parametrize(
    ("question", "answer", "length", "named"),
    [
        ("what is the dog ?", "yes", 16, "unknown word 'dog'"),
        ("what is the word ?", "maybe", 16, "unknown word 'maybe'"),
        ("what is the word ?", "<eos>", 16, "unknown word '<eos>'"),
        ("what is the word ?", " ", 16, "answer is empty"),
        ("what is the word ?", "F A D", 9, "10 tokens, 9 are allowed"),
    ],
)
def test_questions_that_cannot_be_encoded_are_refused(question: str, answer: str, length: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        TOKENIZER.encode_questions(["what is the word ?", question], ["yes", answer], length)
