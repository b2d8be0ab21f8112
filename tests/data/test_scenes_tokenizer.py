import json

import numpy as np
import pytest

from rf_repro.config.schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.grammar import all_prompts
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
    [("a photo of a dog", 16, "unknown word 'dog'"), ("a photo of a circle", 6, "max_text_tokens=6"), ("a <pad>", 16, "<pad>")],
)
def test_what_cannot_be_encoded_is_refused(text: str, length: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        TOKENIZER.encode(["a circle", text], length)
