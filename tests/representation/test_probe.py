"""The probes find what is there, and only that: constructed codes and features whose content is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rf_repro.worlds.scenes.probe import nearest_cells, probe_codes, probe_features

SCENES, SLOTS, GRID, SIZE = 1500, 2, 4, 24
SHAPES, COLORS = 4, 6


def scenes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape, colour [SCENES, SLOTS] (the second object is often missing) and centres on the two diagonals' cells."""
    rng = np.random.default_rng(0)
    shape, color = rng.integers(SHAPES, size=(SCENES, SLOTS)), rng.integers(COLORS, size=(SCENES, SLOTS))
    missing = rng.random(SCENES) < 0.5
    shape[missing, 1] = color[missing, 1] = -1
    center = np.tile(np.array([[6.0, 6.0], [18.0, 18.0]], np.float32), (SCENES, 1, 1))
    return shape, color, center


def painted(shape: np.ndarray, color: np.ndarray, center: np.ndarray) -> Tensor:
    """One number a cell, int64 [SCENES, N]: 0, or 1 + shape * COLORS + color of the object whose four cells it belongs to."""
    cells = torch.zeros(SCENES, GRID**2, dtype=torch.int64)
    for scene in range(SCENES):
        for slot in range(SLOTS):
            if shape[scene, slot] >= 0:
                own = nearest_cells(torch.from_numpy(center[scene, slot])[None], GRID, SIZE)[0]
                cells[scene, own] = 1 + int(shape[scene, slot]) * COLORS + int(color[scene, slot])
    return cells


def test_nearest_cells_are_the_block_around_a_centre() -> None:
    centers = torch.tensor([[12.0, 12.0], [0.5, 0.5], [23.5, 12.0], [6.0, 17.0]])
    for (x, y), cells in zip(centers.tolist(), nearest_cells(centers, GRID, SIZE).tolist(), strict=True):
        middles = [((cell % GRID + 0.5) * 6, (cell // GRID + 0.5) * 6) for cell in range(GRID**2)]
        farthest = max(max(abs(middles[cell][0] - x), abs(middles[cell][1] - y)) for cell in cells)
        others = [c for c in range(GRID**2) if c not in cells]
        assert len(set(cells)) == 4
        assert farthest <= min(max(abs(middles[c][0] - x), abs(middles[c][1] - y)) for c in others)


def test_codes_that_name_the_object_are_read_and_codes_of_its_colour_say_nothing_of_shape() -> None:
    shape, color, center = scenes()
    cells = painted(shape, color, center)
    metrics, n = probe_codes(cells, shape, color, center, 1 + SHAPES * COLORS, SIZE)
    num_objects = int((shape >= 0).sum())
    assert n == num_objects - int(0.8 * num_objects)
    assert metrics == {"shape": 1.0, "color": 1.0}
    colors_alone = torch.where(cells > 0, 1 + (cells - 1) % COLORS, 0)
    metrics, _ = probe_codes(colors_alone, shape, color, center, 1 + COLORS, SIZE)
    assert metrics["color"] == 1.0
    assert metrics["shape"] == pytest.approx(1 / SHAPES, abs=0.08)


def features_of(cells: Tensor, width: int = 16) -> Tensor:
    """A random direction for each shape plus one for each colour, in the object's cells; very unequal scales."""
    generator = torch.Generator().manual_seed(0)
    shapes, colors = torch.randn(SHAPES, width, generator=generator), torch.randn(COLORS, width, generator=generator)
    kinds = (cells - 1).clamp(min=0)
    features = (0.05 * shapes[kinds // COLORS] + colors[kinds % COLORS]) * (cells > 0)[..., None]
    return features * torch.logspace(-3, 3, width) + 100


def test_features_that_hold_shape_and_colour_are_read_whatever_their_scale_and_offset() -> None:
    shape, color, center = scenes()
    metrics, n = probe_features(features_of(painted(shape, color, center)), shape, color, center, SIZE)
    assert n == probe_codes(painted(shape, color, center), shape, color, center, 1 + SHAPES * COLORS, SIZE)[1]
    assert metrics["color"] == 1.0
    assert metrics["shape"] > 0.95


def test_features_without_shape_give_chance_on_held_out_objects() -> None:
    """Random features of many dimensions can be learned by heart, but not used on the objects kept back."""
    shape, color, center = scenes()
    noise = torch.randn(SCENES, GRID**2, 64, generator=torch.Generator().manual_seed(0))
    metrics, _ = probe_features(noise, shape, color, center, SIZE)
    assert metrics["shape"] == pytest.approx(1 / SHAPES, abs=0.08)
    assert metrics["color"] == pytest.approx(1 / COLORS, abs=0.08)


def test_an_arrangement_of_cells_alone_is_not_read_as_shape() -> None:
    """What only which cell holds what would tell is the picture itself, not a feature of it."""
    shape, color, center = scenes()
    features = torch.zeros(SCENES, GRID**2, 4)
    for scene in range(SCENES):
        for slot in range(SLOTS):
            if shape[scene, slot] >= 0:
                own = nearest_cells(torch.from_numpy(center[scene, slot])[None], GRID, SIZE)[0]
                features[scene, own[shape[scene, slot]]] = torch.randn(4, generator=torch.Generator().manual_seed(scene))
    metrics, _ = probe_features(features, shape, color, center, SIZE)
    assert metrics["shape"] == pytest.approx(1 / SHAPES, abs=0.08)
