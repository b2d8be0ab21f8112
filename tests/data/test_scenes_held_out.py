"""Held-out combinations never reach training in any wording, and every part of them does."""

from itertools import permutations, product

import numpy as np
import pytest

from rf_repro.config.data_schema import SHAPES, ScenesConfig
from rf_repro.data.scenes.grammar import RELATIONS, all_prompts
from rf_repro.data.scenes.held_out import HeldOut
from rf_repro.data.scenes.world import SceneBatch, ScenesWorld

MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white")
TINY = ScenesConfig()


@pytest.fixture(scope="module")
def training() -> SceneBatch:
    return ScenesWorld(TINY).train(np.arange(TINY.num_train))


def wordings(fields: dict) -> set[str]:
    """Both captions with the meaning of a position or color_attr prompt."""
    first, second = fields["include"]
    if "position" in second:
        relation, one, other = second["position"][0], second["class"], first["class"]
        return {f"a photo of a {one} {relation} a {other}", f"a photo of a {other} {MIRROR[relation]} a {one}"}
    one, other = (f"{entry['color']} {entry['class']}" for entry in (first, second))
    return {f"a photo of a {one} and a {other}", f"a photo of a {other} and a {one}"}


def test_no_training_caption_has_a_benchmark_meaning(training: SceneBatch) -> None:
    captions = set(training.captions)
    prompts = [prompt.metadata for prompt in ScenesWorld(TINY).benchmark(10_000)]
    held_out = [fields for fields in prompts if fields["tag"] in ("position", "color_attr")]
    assert sorted(fields["tag"] for fields in held_out) == ["color_attr"] * 90 + ["position"] * 12  # a quarter of 360 and 48
    for fields in held_out:
        assert fields["prompt"] in wordings(fields)
        assert not wordings(fields) & captions


def test_no_training_scene_shows_a_held_out_attribute_combination(training: SceneBatch) -> None:
    """Whatever its caption: dense captions would name it."""
    kept_back = {
        frozenset((entry["class"], entry["color"]) for entry in prompt.metadata["include"])
        for prompt in ScenesWorld(TINY).benchmark(10_000)
        if prompt.metadata["tag"] == "color_attr"
    }
    for shapes, colors in zip(training.shape, training.color, strict=True):
        shown = frozenset((TINY.shapes[a], TINY.colors[c]) for a, c in zip(shapes, colors, strict=True) if a >= 0)
        assert shown not in kept_back


def test_every_part_is_in_the_training_captions(training: SceneBatch) -> None:
    captions = set(training.captions)
    for one, other in permutations(TINY.shapes, 2):
        assert any(f"a photo of a {one} {relation} a {other}" in captions for relation in RELATIONS)
        paints = [f"a photo of a {c} {one} and a {d} {other}" for c, d in permutations(TINY.colors, 2)]
        assert set(paints) & captions
    for one, relation in product(TINY.shapes, RELATIONS):
        assert any(f"a photo of a {one} {relation} a {other}" in captions for other in TINY.shapes)
    for one, color in product(TINY.shapes, TINY.colors):
        assert any(caption.startswith(f"a photo of a {color} {one} and") for caption in captions)
    combined = {(c, a, d, b) for a, b in permutations(range(4), 2) for c in range(6) for d in range(6)}
    mixed = (training.shape[:, 1] >= 0) & (training.shape[:, 0] != training.shape[:, 1])
    columns = [training.color[mixed, 0], training.shape[mixed, 0], training.color[mixed, 1], training.shape[mixed, 1]]
    seen = set(zip(*(column.tolist() for column in columns), strict=True))
    assert len(combined - seen) == 90  # every combination that is not held out occurs


@pytest.mark.parametrize("held_out", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("num_shapes", [2, 3, 4, 6])
@pytest.mark.parametrize("num_colors", [3, 6, 9])
def test_shares_are_balanced_in_every_world(held_out: float, num_shapes: int, num_colors: int) -> None:
    config = ScenesConfig(shapes=SHAPES[:num_shapes], colors=COLORS[:num_colors], held_out=held_out)
    split, prompts = HeldOut(config), all_prompts(config)
    for task, size in (("position", 4), ("color_attr", num_colors * (num_colors - 1))):
        total = sum(prompt in split for prompt in prompts[task])
        assert abs(total - held_out * len(prompts[task])) <= 1  # whole meanings, two captions each
        for pair in permutations(range(num_shapes), 2):
            mine = [prompt for prompt in prompts[task] if prompt.shapes == pair]
            assert abs(sum(prompt in split for prompt in mine) - held_out * size) <= 1
    for relation in range(4):
        assert any(prompt not in split for prompt in prompts["position"] if prompt.relation == relation)
    for shape, color in product(range(num_shapes), range(num_colors)):
        bound = [prompt for prompt in prompts["color_attr"] if (prompt.shapes[0], prompt.colors[0]) == (shape, color)]
        assert sum(prompt not in split for prompt in bound) >= (1 - held_out) * len(bound) - num_shapes


def test_a_prompt_and_its_mirror_share_their_fate() -> None:
    split, prompts = HeldOut(TINY), all_prompts(TINY)
    by_caption = {prompt.caption(TINY): prompt in split for task in ("position", "color_attr") for prompt in prompts[task]}
    for prompt in [*prompts["position"], *prompts["color_attr"]]:
        assert len({by_caption[text] for text in wordings(prompt.metadata(TINY))}) == 1
