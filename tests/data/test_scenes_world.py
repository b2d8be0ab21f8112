"""Scenes are what their captions say, and depend on (seed, index) alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from evaluators.geneval.relations import relations
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.data.scenes.draws import choice, stream_keys, uniform
from rf_repro.data.scenes.grammar import TASKS, Prompt
from rf_repro.data.scenes.world import SceneBatch, ScenesWorld

TINY = ScenesConfig()
HARD = ScenesConfig(
    image_size=64, shapes=("circle", "square", "triangle", "cross", "star", "ring"), radius=8.0, radius_jitter=0.25,
    rotation=0.5, min_distance=24.0, max_objects=4, background="textured", num_train=3000,
    colors=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white"),
)  # fmt: skip


@pytest.fixture(scope="module", params=[TINY, HARD], ids=["tiny", "hard"])
def everything(request: pytest.FixtureRequest) -> SceneBatch:
    """Every training scene of a world."""
    config: ScenesConfig = request.param
    return ScenesWorld(config).train(np.arange(config.num_train))


def mixed(state: int) -> int:
    """SplitMix64's finaliser on Python integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


def test_draws_equal_the_generator_on_python_integers() -> None:
    gamma = 0x9E3779B97F4A7C15
    keys = stream_keys(("train", 3), np.array([0, 5, 39_999]))
    for index, key in zip((0, 5, 39_999), keys, strict=True):
        assert int(key) == mixed((derive_seed("scenes", "train", 3) + (index + 1) * gamma) % 2**64)
        expected = [(mixed((int(key) + (draw + 1) * gamma) % 2**64) >> 11) / 2**53 for draw in range(4)]
        assert uniform(np.array([key]), np.arange(4)).tolist() == expected


def test_choices_are_uniform() -> None:
    drawn = choice(stream_keys(("train", 0), np.arange(60_000)), 7, 6)
    assert set(drawn) == set(range(6))
    assert np.abs(np.bincount(drawn) / 10_000 - 1).max() < 0.05  # 5 standard deviations


@pytest.mark.parametrize("config", [TINY, HARD], ids=["tiny", "hard"])
def test_a_scene_does_not_depend_on_its_batch(config: ScenesConfig) -> None:
    together = ScenesWorld(config).train(np.arange(300))
    order = np.random.default_rng(0).permutation(300)[:40]
    shuffled, alone = ScenesWorld(config).train(order), ScenesWorld(config).train(np.array([123]))
    for rows, batch in ((order, shuffled), (np.array([123]), alone)):
        for name in ("images", "shape", "color", "center", "radius"):
            np.testing.assert_array_equal(getattr(together, name)[rows], getattr(batch, name))
        assert [together.captions[row] for row in rows] == batch.captions
        assert [together.metadata[row] for row in rows] == batch.metadata


def test_another_seed_gives_other_scenes_and_another_fingerprint() -> None:
    first, second = ScenesWorld(TINY), ScenesWorld(replace(TINY, seed=1))
    assert first.fingerprint == ScenesWorld(TINY).fingerprint != second.fingerprint
    assert first.train(np.arange(50)).captions != second.train(np.arange(50)).captions


def test_tasks_are_equally_frequent(everything: SceneBatch) -> None:
    share = Counter(fields["tag"] for fields in everything.metadata)
    assert set(share) == set(TASKS)
    expected = len(everything.captions) / 6
    assert max(abs(count - expected) for count in share.values()) < 5 * expected**0.5


def check_scene(batch: SceneBatch, row: int) -> None:
    """A scene holds exactly what its metadata includes, where it says."""
    config, fields = batch.config, batch.metadata[row]
    objects = [
        (config.shapes[shape], config.colors[color], center)
        for shape, color, center in zip(batch.shape[row], batch.color[row], batch.center[row], strict=True)
        if shape >= 0
    ]
    wanted = Counter({entry["class"]: entry["count"] for entry in fields["include"]})
    assert Counter(name for name, _, _ in objects) == wanted
    for entry in fields.get("exclude", []):
        assert wanted[entry["class"]] < entry["count"]
    for entry in fields["include"]:
        assert "color" not in entry or {color for name, color, _ in objects if name == entry["class"]} == {entry["color"]}
        if "position" in entry:
            relation, target = entry["position"]
            centers = {name: center for name, _, center in objects}
            dx, dy = centers[entry["class"]] - centers[fields["include"][target]["class"]]
            assert {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation] > 0
            assert (abs(dx) > abs(dy)) == (relation in ("left of", "right of"))
    for i, (_, _, one) in enumerate(objects):
        assert all(np.hypot(*(one - other)) >= config.min_distance for _, _, other in objects[:i])


def test_every_training_scene_is_what_its_metadata_says(everything: SceneBatch) -> None:
    for row in range(len(everything.captions)):
        assert everything.captions[row] == everything.metadata[row]["prompt"]
        check_scene(everything, row)


def test_position_scenes_have_that_one_relation_by_genevals_rule(everything: SceneBatch) -> None:
    """On boxes read off the pixels, and still when one box is half a pixel off."""
    config = everything.config
    rows = [row for row, fields in enumerate(everything.metadata) if fields["tag"] == "position"][:300]
    rng = np.random.default_rng(0)
    for row in rows:
        image, centers = everything.images[row].astype(int), everything.center[row, :2]
        y, x = np.nonzero((image.max(-1) - image.min(-1) > 60) | (image.max(-1) > 160))  # backgrounds are dark and grey
        nearest = np.hypot(x[:, None] + 0.5 - centers[:, 0], y[:, None] + 0.5 - centers[:, 1]).argmin(1)
        boxes = []
        for slot in range(2):
            own_x, own_y = x[nearest == slot], y[nearest == slot]
            boxes.append(np.array([own_x.min(), own_y.min(), own_x.max() + 1, own_y.max() + 1], np.float32))
            middle = (boxes[slot][:2] + boxes[slot][2:]) / 2
            assert np.abs(middle - centers[slot]).max() <= 1, config.shapes[everything.shape[row, slot]]
        asked = everything.metadata[row]["include"][1]["position"][0]
        assert relations(boxes[1], boxes[0], 0.1) == (asked,)
        moved = boxes[1] + np.tile(rng.choice([-0.5, 0.5], 2), 2).astype(np.float32)
        assert relations(moved, boxes[0], 0.1) == (asked,)


def test_dense_captions_name_all_objects_from_left_to_right(everything: SceneBatch) -> None:
    config = everything.config
    for row, caption in enumerate(everything.dense_captions()[:500]):
        slots = [slot for slot in range(config.max_objects) if everything.shape[row, slot] >= 0]
        slots.sort(key=lambda slot: tuple(everything.center[row, slot]))
        names = [f"{config.colors[everything.color[row, slot]]} {config.shapes[everything.shape[row, slot]]}" for slot in slots]
        assert caption == "a photo of " + " and ".join(names)


@pytest.mark.parametrize("config", [TINY, HARD, replace(TINY, held_out=0.0)], ids=["tiny", "hard", "nothing held out"])
@pytest.mark.parametrize("images", [3, 25, 200])
def test_benchmark(config: ScenesConfig, images: int) -> None:
    world = ScenesWorld(config)
    prompts = world.benchmark(images)
    assert [prompt.prompt_id for prompt in prompts] == list(range(len(prompts)))
    for task in TASKS:
        mine = [prompt for prompt in prompts if prompt.metadata["tag"] == task]
        assert len({prompt.metadata["prompt"] for prompt in mine}) == len(mine)
        assert len({prompt.num_samples for prompt in mine}) == 1
        total = sum(prompt.num_samples for prompt in mine)
        assert images <= total < images + len(mine)
        held_out = config.held_out > 0 and task in ("position", "color_attr")
        assert {prompt.metadata["held_out"] for prompt in mine} == {held_out}
        if not held_out and len(world.prompts[task]) <= images:
            assert len(mine) == len(world.prompts[task])


@pytest.mark.parametrize("config", [TINY, HARD], ids=["tiny", "hard"])
def test_ground_truth_satisfies_its_prompts(config: ScenesConfig) -> None:
    world = ScenesWorld(config)
    metadata = [prompt.metadata for prompt in world.benchmark(60)]
    batch = world.for_prompts(metadata, seed=4)
    assert batch.captions == [fields["prompt"] for fields in metadata]
    for row in range(len(metadata)):
        check_scene(batch, row)
    np.testing.assert_array_equal(batch.images[:10], world.for_prompts(metadata[:10], seed=4).images)
    assert (batch.images != world.for_prompts(metadata, seed=5).images).any((1, 2, 3)).all()


def test_prompts_survive_their_metadata() -> None:
    for prompts in ScenesWorld(HARD).prompts.values():
        for prompt in prompts:
            assert Prompt.from_metadata(prompt.metadata(HARD), HARD) == prompt


def test_captions_follow_genevals_templates() -> None:
    config = replace(TINY, colors=("red", "orange"))
    metadata = [
        Prompt("counting", (3, 3), (-1, -1)).metadata(config),
        Prompt("position", (1, 0), (-1, -1), 0).metadata(config),
        Prompt("color_attr", (0, 2), (1, 0)).metadata(config),
    ]
    assert metadata == [
        {
            "tag": "counting", "include": [{"class": "cross", "count": 2}], "exclude": [{"class": "cross", "count": 3}],
            "prompt": "a photo of two crosses",
        },
        {
            "tag": "position",
            "include": [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}],
            "prompt": "a photo of a circle left of a square",
        },
        {
            "tag": "color_attr",
            "include": [{"class": "circle", "count": 1, "color": "orange"}, {"class": "triangle", "count": 1, "color": "red"}],
            "prompt": "a photo of an orange circle and a red triangle",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("include", "named"),
    [
        ([{"class": "bench", "count": 1}], "unknown shape 'bench'"),
        ([{"class": "circle", "count": 1, "color": "black"}], "unknown color 'black'"),
        ([{"class": "circle", "count": 4}], "max_objects allows 3"),
    ],
)
def test_foreign_prompts_are_refused(include: list[dict[str, object]], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ScenesWorld(TINY).for_prompts([{"tag": "colors", "include": include, "prompt": "?"}], 0)


@pytest.mark.parametrize("index", [-1, TINY.num_train])
def test_indices_outside_the_training_set_are_refused(index: int) -> None:
    with pytest.raises(UserError, match="num_train"):
        ScenesWorld(TINY).train(np.array([index]))


@pytest.mark.parametrize(("changes", "named"), [({"min_distance": 40.0}, "min_distance"), ({"radius": 13.0}, "radius")])
def test_a_world_that_does_not_fit_is_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ScenesWorld(replace(TINY, **changes))
