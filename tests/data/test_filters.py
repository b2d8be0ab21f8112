"""Filters: each limit from both sides, and the memory of what was seen."""

import numpy as np
import pytest

from rf_repro.config.data_schema import FilterConfig
from rf_repro.data.filters import Seen, digest, image_reason, text_reason

FILTERS = FilterConfig(min_side=64, max_aspect_ratio=3.0, min_text_chars=2, max_text_chars=10)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((64, 64), None),
        ((63, 64), "image too small"),
        ((64, 63), "image too small"),
        ((192, 64), None),
        ((64, 192), None),
        ((193, 64), "aspect ratio"),
        ((64, 193), "aspect ratio"),
        ((1, 1000), "image too small"),
    ],
)
def test_image_limits(size: tuple[int, int], reason: str | None) -> None:
    assert image_reason(*size, FILTERS) == reason


def test_text_limits() -> None:
    assert [text_reason(count, FILTERS) for count in (1, 2, 10, 11)] == ["text too short", None, None, "text too long"]


def test_what_makes_a_duplicate() -> None:
    assert digest(b"a", "x", "image") == digest(b"a", "y", "image") != digest(b"b", "x", "image")
    assert len({digest(image, text, "image_text") for image in (b"a", b"b") for text in ("x", "y")}) == 4
    assert digest(None, "x", "image") != digest(None, "y", "image")  # a text without an image is its own
    assert 0 <= digest(b"a", "\ud800", "image_text") < 2**32


@pytest.mark.parametrize("kind", ["json", "same"])
def test_the_memory_is_bounded_and_survives_saving(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 60, 500).tolist()
    seen, latest = Seen(capacity=20), []
    for value in values:
        if kind == "json":
            seen = Seen(seen.to_json(), capacity=20)
        assert seen.add(value) == (value not in latest)
        latest = (latest if value in latest else [*latest, value])[-20:]
    seen.clear()
    assert seen.add(values[-1])


def test_digests_are_far_apart() -> None:
    digests = {digest(None, str(value), "image") for value in range(20_000)}
    assert len(digests) >= 19_998  # 20,000**2 / 2**33: 0.05 collisions are expected
