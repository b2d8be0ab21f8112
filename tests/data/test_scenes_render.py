"""Rendered shapes against brute force: many sample points a pixel, inside or outside an outline given by its corners."""

from dataclasses import replace

import numpy as np
import pytest

from rf_repro.config.data_schema import GENEVAL_COLORS, SHAPES, ScenesConfig
from rf_repro.data.scenes.render import RGB, background, box_center, coverage, half_extent, render

ANGLES = 2 * np.pi * np.arange(10) / 10
CORNERS = {  # y down, in radii
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -1.15), (1.15 * 3**0.5 / 2, 0.575), (-1.15 * 3**0.5 / 2, 0.575)],
    "cross": [
        (-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32),
        (0.32, 1), (-0.32, 1), (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32),
    ],
    "spool": [
        (-0.82, -0.82), (0.82, -0.82), (0.22, -0.22), (0.22, 0.22), (0.82, 0.82), (-0.82, 0.82), (-0.22, 0.22), (-0.22, -0.22),
    ],
    "star": [(r * np.sin(a), -r * np.cos(a)) for a, r in zip(ANGLES, [1, 0.48] * 5, strict=True)],
}  # fmt: skip
CORNERS["bowtie"] = [(y, x) for x, y in CORNERS["spool"]]


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points, in radii, lie in the shape: by distance for round ones, else by crossings of a ray with the outline."""
    if shape == "circle":
        return np.hypot(x, y) < 0.95
    if shape == "ring":
        return (np.hypot(x, y) > 0.51) & (np.hypot(x, y) < 0.97)
    crossings = np.zeros(x.shape, int)
    corners = CORNERS[shape]
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            crossings += ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("radius", "rotation"), [(4.5, 0.0), (9.0, 0.0), (9.0, 0.7), (30.0, -2.1)])
def test_coverage_is_the_covered_area(shape: str, radius: float, rotation: float) -> None:
    size, samples = int(2.8 * radius), 16
    center = np.array([[size / 2 + 0.3, size / 2 - 0.2]], np.float32)
    turn = None if rotation == 0 else np.array([rotation], np.float32)
    drawn = coverage(shape, center, np.array([radius], np.float32), turn, size)[0]

    points = (np.arange(size * samples) + 0.5) / samples
    x, y = (points[None, :] - center[0, 0]) / radius, (points[:, None] - center[0, 1]) / radius
    x, y = np.cos(rotation) * x + np.sin(rotation) * y, np.cos(rotation) * y - np.sin(rotation) * x
    exact = inside(shape, x, y).reshape(size, samples, size, samples).mean((1, 3))

    assert abs(drawn.sum() / exact.sum() - 1) < 0.03
    assert np.abs(drawn - exact).max() < 0.45  # at the star's tips; a distance knows no corners
    assert np.abs(drawn - exact).sum() < 0.4 * radius  # corners; against an area of about 2 radius**2
    assert drawn[exact == 0].sum() < 0.02 * exact.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotation", [0.0, 0.5, -1.3, 3.0])
def test_boxes_are_centred_as_told_and_fit_the_extent(shape: str, rotation: float) -> None:
    turn = np.array([rotation], np.float32)
    drawn = coverage(shape, np.full((1, 2), 150, np.float32), np.full(1, 100, np.float32), turn, 300)[0]
    y, x = np.nonzero(drawn > 0.5)
    low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()]) + 1
    assert np.abs(((low + high) / 2 - 150) / 100 - box_center(shape, turn)[0]).max() < 0.015
    assert (high - low).max() / 200 <= half_extent(ScenesConfig(rotation=abs(rotation))) + 0.005
    assert (high - low).min() / 200 > 0.8  # what layouts rely on


def test_a_scene_is_its_background_and_its_colours() -> None:
    config = ScenesConfig(image_size=32, radius=6.0)
    shape, color = np.array([[0, 1, -1]]), np.array([[config.colors.index("yellow"), config.colors.index("blue"), -1]])
    center = np.array([[[8, 8], [24, 20], [0, 0]]], np.float32)
    image = render(config, shape, color, center, np.array([[6, 6, 0]], np.float32), None, np.full((1, 6), 0.5))[0]
    assert image[8, 8].tolist() == np.rint(np.array(RGB["yellow"], np.float32) * 255).tolist()
    assert image[20, 24].tolist() == np.rint(np.array(RGB["blue"], np.float32) * 255).tolist()
    far = image[np.r_[0, 31, 31], np.r_[31, 0, 31]]
    assert (far == round(255 * (0.05 + 0.2 * 0.5))).all()


def test_rendering_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ScenesConfig(), background="textured", rotation=0.3)
    rng = np.random.default_rng(0)
    shape, color = rng.integers(-1, 4, (9, 3)), rng.integers(0, 6, (9, 3))
    center = rng.uniform(5, 19, (9, 3, 2)).astype(np.float32)
    arguments = (shape, color, center, np.full((9, 3), 4.5, np.float32), np.zeros((9, 3), np.float32), rng.random((9, 6)))
    whole = render(config, *arguments)
    monkeypatch.setattr("rf_repro.data.scenes.render._CHUNK_PIXELS", 2 * 24 * 24)
    np.testing.assert_array_equal(render(config, *arguments), whole)


@pytest.mark.parametrize(("kind", "darkest", "brightest"), [("plain", 0.05, 0.25), ("graded", 0.05, 0.25), ("textured", 0, 0.31)])
def test_backgrounds_stay_dark_and_vary_as_named(kind: str, darkest: float, brightest: float) -> None:
    grey = background(kind, np.random.default_rng(0).random((200, 6)), 24)
    assert darkest <= grey.min() < grey.max() <= brightest + 1e-6
    varied = (grey.std((1, 2)) > 0.001).mean()
    assert varied == 0 if kind == "plain" else varied > 0.95
    if kind == "graded":  # monotone along a line: no pixel exceeds both its neighbours
        assert not ((grey[:, 1:-1] > grey[:, 2:] + 1e-6) & (grey[:, 1:-1] > grey[:, :-2] + 1e-6)).any()


def test_every_allowed_colour_can_be_told_from_all_others() -> None:
    assert set(RGB) == set(GENEVAL_COLORS) - {"black"}
    values = np.array(list(RGB.values()))
    distance = np.linalg.norm(values[:, None] - values, axis=-1) + 9 * np.eye(len(values))
    assert distance.min() > 0.35
