"""Captions and conversations in the shapes that published data has them, and what is refused."""

import json
from typing import Any

import pytest

from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards import CorruptSample, Turn
from rf_repro.data.shards.records import parse_json, read_texts

LLAVA = [
    {"from": "human", "value": "<image>\nWhat is this?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Its color?"},
    {"from": "gpt", "value": "Grey. "},
]
TURNS = (Turn("What is this?", "A cat."), Turn("Its color?", "Grey."))
ROLES = {"human": "user", "gpt": "assistant"}
CHAT = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in LLAVA]
PARTS = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    *CHAT[2:],
]
COLUMNS = {"from": [turn["from"] for turn in LLAVA], "value": [turn["value"] for turn in LLAVA]}  # older Hugging Face data
PAIR = (Turn("What is this?", "A cat."),)


def source(task: str = "understanding", **columns: str) -> SourceConfig:
    return SourceConfig("some", "path", "jsonl", task, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"conversations": LLAVA}, TURNS),
        ({"messages": CHAT}, TURNS),
        ({"messages": PARTS}, TURNS),
        ({"conversations": COLUMNS}, TURNS),
        ({"conversations": json.dumps(LLAVA)}, TURNS),
        ({"conversations": None, "messages": CHAT}, TURNS),
        ({"question": "<image> What is this?", "answer": "A cat."}, PAIR),
        ({"conversations": LLAVA, "text": "a caption"}, TURNS),
        ({"messages": [{"role": "system", "content": "Be brief."}, *CHAT[:2]]}, (Turn("Be brief.\nWhat is this?", "A cat."),)),
    ],
    ids=["llava", "chat", "parts", "columns", "json", "null beside", "pair", "text beside", "system"],
)
def test_conversations(record: dict[str, Any], turns: tuple[Turn, ...]) -> None:
    assert read_texts(record, source()) == ("", turns)


def test_texts() -> None:
    assert read_texts({"caption": " a cat \n"}, source("generation")) == ("a cat", ())
    assert read_texts({"text": "a", "caption": "b", "txt": "c"}, source("text")) == ("c", ())
    assert read_texts({"caption": None, "text": "a"}, source("understanding")) == ("a", ())  # a description is understanding too
    assert read_texts({"text": "a", "long": "b"}, source("generation", text_column="long")) == ("b", ())
    assert read_texts({"caption": "b", "conversations": LLAVA}, source("generation")) == ("b", ())
    assert read_texts({"text": "b", "turns": LLAVA}, source(conversation_column="turns")) == ("", TURNS)


@pytest.mark.parametrize(
    ("record", "task", "message"),
    [
        ({}, "generation", "has no txt or caption or text; it has nothing else"),
        ({"captions": ["a"]}, "generation", "it has captions"),
        ({"text": ["a", "b"]}, "generation", "text is list, not text"),
        ({"text": b"\x80\x04K\x01."}, "generation", "text is binary, not text; stored objects are never unpickled"),
        ({"text": "a\0b"}, "generation", "text holds a NUL character"),
        ({"text": "\ud800"}, "generation", "text holds half a surrogate pair"),
        ({"messages": [*CHAT, CHAT[2]]}, "understanding", "not question and answer in turns: user, assistant"),
        ({"messages": []}, "understanding", "not question and answer in turns: empty"),
        ({"messages": [*CHAT[:1], *CHAT[:1]]}, "understanding", "refers to 2 images"),
        ({"messages": CHAT}, "text", "refers to 1 images; a sample of task text has none"),
        (
            {"messages": [CHAT[2], {"role": "tool", "content": "a"}]},
            "understanding",
            "messages[1]: role is tool, not one of",
        ),
        ({"messages": [CHAT[2], {"role": "assistant", "content": " "}]}, "understanding", "has an empty answer"),
        ({"messages": [CHAT[2], {"role": "assistant", "content": 3}]}, "understanding", "messages[1].content is int, not text"),
        ({"messages": [CHAT[2], "yes"]}, "understanding", "messages[1] is str, not a message"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "understanding", "messages[0]: role is ['user'], not one of"),
        ({"messages": 3}, "understanding", "messages is int, not a list of messages"),
        ({"messages": {"role": ["user"], "content": []}}, "understanding", "lists of different lengths"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "understanding", "a part is video, not text or image"),
        ({"question": "a", "answer": 1}, "understanding", "answer is int, not text"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_is_refused(record: dict[str, Any], task: str, message: str) -> None:
    with pytest.raises(CorruptSample) as caught:
        read_texts(record, source(task))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_configured_column_is_not_replaced_by_another() -> None:
    with pytest.raises(CorruptSample, match="has no turns; it has conversations"):
        read_texts({"conversations": LLAVA}, source(conversation_column="turns"))
    with pytest.raises(CorruptSample, match="has no long; it has text"):
        read_texts({"text": "a"}, source("generation", text_column="long"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "is not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\n"}', "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b" " * (4 << 20) + b"1", "4194305 bytes; at most 4194304"),
    ],
    ids=["lists", "objects", "nan", "infinity", "digits", "utf8", "control", "cut off", "size"],
)
def test_json_is_strict(data: bytes, message: str) -> None:
    with pytest.raises(CorruptSample) as caught:
        parse_json(data, "line")
    assert str(caught.value).startswith("line ")
    assert message in str(caught.value)
