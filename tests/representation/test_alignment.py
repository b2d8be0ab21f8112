"""REPA: the cosine and the change of grid."""

import pytest
import torch

from rf_repro.representation.alignment import alignment_loss, resize_grid


def test_loss_is_minus_the_cosine_whatever_the_lengths() -> None:
    a = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [5.0, 0.0]]])
    b = torch.tensor([[[0.1, 0.0], [0.0, -7.0], [1.0, 0.0], [0.0, 2.0]]])
    total, count = alignment_loss(a, b)
    assert count == 4
    assert float(total) == pytest.approx(-(1 - 1 + 0.5**0.5 + 0))


def test_a_grid_is_resized_in_the_images_own_coordinates() -> None:
    """A feature that is its cell's place in [0, 1] stays its cell's place, away from the border, where cells are cut."""

    def places(grid: int) -> torch.Tensor:
        centres = (torch.arange(grid) + 0.5) / grid
        return torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).reshape(1, grid * grid, 2)

    resized = resize_grid(places(8), 6)
    inner = [row * 6 + column for row in range(1, 5) for column in range(1, 5)]
    assert torch.allclose(resized[:, inner], places(6)[:, inner], atol=3e-3)
    assert torch.equal(resize_grid(places(6), 6), places(6))
    assert torch.allclose(resize_grid(torch.full((2, 64, 3), 0.7), 6), torch.full((2, 36, 3), 0.7))
