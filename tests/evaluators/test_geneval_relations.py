"""Left, right, above, below: 20-pixel boxes around given centres against the rule's arithmetic."""

import numpy as np
import pytest

from evaluators.geneval.relations import relations


def box(x: float, y: float, width: float = 20, height: float = 20) -> np.ndarray:
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)


CENTER = box(100, 100)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (50, 100, ("left of",)),
        (150, 100, ("right of",)),
        (100, 50, ("above",)),  # y points down
        (100, 150, ("below",)),
        (150, 150, ("right of", "below")),  # (50 - 4) / 70.7 = .65 on both axes
        (50, 50, ("left of", "above")),
        (150, 120, ("right of",)),  # (20 - 4) / 53.9 = .30 vertically
        (100, 100, ()),
    ],
)
def test_relations_of_separate_boxes(x: float, y: float, expected: tuple[str, ...]) -> None:
    assert relations(box(x, y), CENTER, 0.1) == expected


def test_offset_within_the_margin_counts_as_none() -> None:
    """The margin is 0.1 x (20 + 20) = 4 pixels an axis; what is left below 1e-3 pixels is none, below 0 is 0."""
    assert relations(box(103, 100), CENTER, 0.1) == ()
    assert relations(box(104, 97), CENTER, 0.1) == ()
    assert relations(box(104.0005, 100), CENTER, 0.1) == ()


def test_margin_is_not_added_to_the_other_side() -> None:
    """Without the floor at 0, 3 - 4 = -1 pixels would turn right into left, and with -4 out of 40, below into above."""
    assert relations(box(103, 140), CENTER, 0.0) == ("below",)
    assert relations(box(103, 140), CENTER, 0.1) == ("below",)
    assert relations(box(101, 100), box(100, 100, 200, 20), 0.1) == ()


def test_remaining_offset_is_divided_by_the_whole_distance() -> None:
    """7 pixels to the right, margin 4: 3 / 7 = .43 is no relation; divided by the reduced distance it would be 1."""
    assert relations(box(107, 100), CENTER, 0.1) == ()
    assert relations(box(109, 100), CENTER, 0.1) == ("right of",)  # 5 / 9


@pytest.mark.parametrize(("sign", "name"), [(-1, "left of"), (1, "right of")])
def test_half_is_not_enough(sign: int, name: str) -> None:
    """Sizes of 16 and 0.125: margin 4, so an offset of 8 leaves exactly one half."""
    small = box(100, 100, 16, 16)
    assert relations(box(100 + 8 * sign, 100, 16, 16), small, 0.125) == ()
    assert relations(box(100 + 8.25 * sign, 100, 16, 16), small, 0.125) == (name,)
    assert relations(box(100, 100 + 8 * sign, 16, 16), small, 0.125) == ()
    assert relations(box(100, 100 + 8.25 * sign, 16, 16), small, 0.125) == ("above" if sign < 0 else "below",)


def test_margin_uses_both_sizes_of_its_own_axis() -> None:
    """Width 100 and 20: margin 12 along x; height 20 and 60: margin 8 along y."""
    target = box(100, 100, 20, 60)
    assert relations(box(123, 100, 100, 20), target, 0.1) == ()  # 11 / 23 < .5
    assert relations(box(125, 100, 100, 20), target, 0.1) == ("right of",)  # 13 / 25
    assert relations(box(100, 115, 100, 20), target, 0.1) == ()  # 7 / 15
    assert relations(box(100, 117, 100, 20), target, 0.1) == ("below",)  # 9 / 17


def test_threshold_scales_the_margin() -> None:
    assert relations(box(107, 100), CENTER, 0.05) == ("right of",)  # (7 - 2) / 7
    assert relations(box(150, 100), CENTER, 1.0) == ()  # (50 - 40) / 50


def test_offsets_below_a_thousandth_pixel_are_none() -> None:
    tiny = box(0, 0, 1, 1)
    assert relations(box(0.0005, 0, 1, 1), tiny, 0.0) == ()
    assert relations(box(0.002, 0, 1, 1), tiny, 0.0) == ("right of",)


def test_arithmetic_is_single_precision() -> None:
    """Offsets of 0.4 widths leave one half up to rounding; in double precision both verdicts would be the other one."""
    for target_right, left, right, expected in [
        (125.8388900756836, 110.33556365966797, 136.17445373535156, ()),
        (108.86347198486328, 103.5453872680664, 112.40885925292969, ("right of",)),
    ]:
        target, subject = np.float32([100, 100, target_right, 110]), np.float32([left, 100, right, 110])
        assert relations(subject, target, 0.1) == expected
