"""Questions, and a script that answers them."""

from pathlib import Path

from PIL import Image

from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.protocol import Parts, Query
from tests.evaluators.scripted import Scripted

COUNT, BATCH = 23, 3


def load(number: int) -> Parts:
    if number == 7:
        raise OSError("truncated\nfile")
    return Image.new("RGB", (4, 4), (number, 0, 0)), f"what is number {number}?"


QUERIES = [
    Query(f"q{number}", lambda number=number: load(number), (("yes",), ("no",)) if number % 5 == 0 else ())
    for number in range(COUNT)
]  # fmt: skip


def reply(parts: Parts) -> str:
    """`yes` for even numbers, and who asked in words."""
    image, text = parts
    assert isinstance(image, Image.Image)
    assert isinstance(text, str)
    number = image.getpixel((0, 0))[0]  # type: ignore[index]
    assert text == f"what is number {number}?"
    return ("yes", "no")[number % 2] if number % 5 == 0 else f"number {number}"


def ask_all(store: Path, shard: tuple[int, int] = (0, 1)) -> Replies:
    return ask(QUERIES, Scripted(reply), store, protocol="numbers-v1", max_new_tokens=9, batch_size=BATCH, shard=shard)
