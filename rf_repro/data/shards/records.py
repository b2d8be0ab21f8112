"""From a sample's columns to its caption, text or conversation: the same for every format.

A record is a mapping of columns (keys of JSON, members of a tar sample without the image) to text, numbers, lists and
mappings. Where the source's config leaves a column's name open, the first of these that is there is used:

| what | webdataset (tar) | parquet, arrow | jsonl |
| --- | --- | --- | --- |
| image | the one member .jpg, .jpeg, .png or .webp | column `image` | key `image`, a path beside the file |
| text | member .txt, else as the others, a key of member .json | `caption`, `text` | `caption`, `text` |
| conversation | key of member .json, as the others | `conversations`, `messages`, or `question` and `answer` | the same |

Conversations: LLaVA's `[{"from": "human" | "user", "value": ...}, {"from": "gpt" | "assistant", ...}, ...]`, chat messages
`[{"role", "content"}, ...]` (content a text, or parts of `type` text and image), the same as a mapping of lists (Hugging Face's
older layout), or as JSON text. Placeholders `<image>` are removed; a system message goes before the first question.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted import json_text
from rf_repro.core.untrusted.problems import MAX_RECORD_BYTES, CorruptSample, shown
from rf_repro.data.shards.samples import Turn

Record = Mapping[str, Any]

IMAGE_COLUMN = "image"
TEXT_COLUMNS = ("txt", "caption", "text")  # "txt" is a tar member
CONVERSATION_COLUMNS = ("conversations", "messages")
QUESTION, ANSWER = "question", "answer"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PLACEHOLDER = "<image>"


def columns_of(source: SourceConfig) -> tuple[str, ...]:
    """Columns that may hold a sample's text or conversation; the image's is not among them."""
    texts = (source.text_column,) if source.text_column else TEXT_COLUMNS
    if source.task == "generation":
        return texts
    if source.conversation_column:
        return (source.conversation_column,)
    return (*texts, *CONVERSATION_COLUMNS, QUESTION, ANSWER)


def read_texts(record: Record, source: SourceConfig) -> tuple[str, tuple[Turn, ...]]:
    """The text and the turns of a sample; one of them is empty.

    A generation sample has a text. Others have a conversation, or a text where none is found and none is configured.

    Raises:
        CorruptSample: it has neither, or it cannot be read.
    """
    if source.task != "generation":
        turns = _conversation(record, source)
        if turns:
            return "", turns
    names = (source.text_column,) if source.text_column else TEXT_COLUMNS
    for name in names:
        if record.get(name) is not None:
            return _text(record[name], name).strip(), ()
    wanted = names if source.text_column else columns_of(source)
    raise CorruptSample(f"has no {' or '.join(map(shown, wanted))}; it has {_names(record)}")


def parse_json(data: bytes | str, what: str) -> Any:
    """Strict JSON, as of `json_text.parse_json`.

    Raises:
        CorruptSample: it is not; the message starts with `what`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise CorruptSample(f"{what} has {len(data)} bytes; at most {MAX_RECORD_BYTES} are read")
    try:
        return json_text.parse_json(data)
    except ValueError as error:
        raise CorruptSample(f"{what} is not JSON ({shown(error)})") from None


def decode_text(data: bytes, what: str) -> str:
    """UTF-8 text.

    Raises:
        CorruptSample: it is not; the message starts with `what`.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise CorruptSample(f"{what} is not UTF-8") from None


def _names(record: Record) -> str:
    return ", ".join(shown(name) for name in list(record)[:12]) or "nothing else"


def _text(value: Any, what: str) -> str:
    if isinstance(value, bytes):
        raise CorruptSample(f"{shown(what)} is binary, not text; stored objects are never unpickled")
    if not isinstance(value, str):
        raise CorruptSample(f"{shown(what)} is {type(value).__name__}, not text")
    if "\0" in value:
        raise CorruptSample(f"{shown(what)} holds a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise CorruptSample(f"{shown(what)} holds half a surrogate pair") from None
    return value


def _conversation(record: Record, source: SourceConfig) -> tuple[Turn, ...]:
    """Its turns; () where it has none and no column is configured."""
    names = (source.conversation_column,) if source.conversation_column else CONVERSATION_COLUMNS
    for name in names:
        if record.get(name) is not None:
            return _turns(_messages(record[name], shown(name)), source.task)
    if source.conversation_column:
        raise CorruptSample(f"has no {shown(source.conversation_column)}; it has {_names(record)}")
    if record.get(QUESTION) is not None and record.get(ANSWER) is not None:
        asked = [("user", _text(record[QUESTION], QUESTION)), ("assistant", _text(record[ANSWER], ANSWER))]
        return _turns(asked, source.task)
    return ()


def _messages(value: Any, what: str) -> list[tuple[str, str]]:
    """(role, text) of each message."""
    if isinstance(value, str):
        value = parse_json(value, what)
    if isinstance(value, Mapping):
        value = _transposed(value, what)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise CorruptSample(f"{what} is {type(value).__name__}, not a list of messages")
    found = []
    for number, message in enumerate(value):
        where = f"{what}[{number}]"
        if not isinstance(message, Mapping):
            raise CorruptSample(f"{where} is {type(message).__name__}, not a message")
        role, content = ("from", "value") if message.get("from") is not None else ("role", "content")
        speaker = message.get(role)
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise CorruptSample(f"{where}: {role} is {shown(speaker)}, not one of {', '.join(ROLES)}")
        found.append((ROLES[speaker], _content(message.get(content), f"{where}.{content}")))
    return found


def _transposed(value: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """{"from": [...], "value": [...]} as a list of messages."""
    if not value or not all(isinstance(held, list) and len(held) <= 10_000 for held in value.values()):
        raise CorruptSample(f"{what} is a mapping, not a list of messages")
    lengths = {len(held) for held in value.values()}
    if len(lengths) > 1:
        raise CorruptSample(f"{what} has lists of different lengths")
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _content(value: Any, what: str) -> str:
    if not isinstance(value, list):
        return _text(value, what)
    parts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            parts.append(_text(part.get("text"), what))
        elif kind in ("image", "image_url"):
            parts.append(PLACEHOLDER)
        else:
            raise CorruptSample(f"{what}: a part is {shown(kind)}, not text or image")
    return "\n".join(parts)


def _turns(messages: list[tuple[str, str]], task: str) -> tuple[Turn, ...]:
    """Questions with their answers."""
    images = sum(text.count(PLACEHOLDER) for _, text in messages)
    if images > (task == "understanding"):
        raise CorruptSample(f"its conversation refers to {images} images; a sample of task {task} has "
                            f"{'one' if task == 'understanding' else 'none'}")  # fmt: skip
    system = ""
    if messages and messages[0][0] == "system":
        system, messages = messages[0][1].strip(), messages[1:]
    roles = [role for role, _ in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise CorruptSample(f"its conversation is not question and answer in turns: {shown(', '.join(roles) or 'empty')}")
    texts = [text.replace(PLACEHOLDER, "").strip() for _, text in messages]
    if system:
        texts[0] = f"{system}\n{texts[0]}"
    if not all(texts[1::2]):
        raise CorruptSample("its conversation has an empty answer")
    return tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True))
