"""REPA: the cosine and the change of grid."""

import pytest
import torch

from rf_repro.representation.alignment import Projector, resize_grid


def test_loss_is_minus_the_cosine_whatever_the_lengths() -> None:
    a = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [5.0, 0.0]]])
    b = torch.tensor([[[0.1, 0.0], [0.0, -7.0], [1.0, 0.0], [0.0, 2.0]]])
    total, count = Projector.loss(a, b)
    assert count == 4
    assert float(total) == pytest.approx(-(1 - 1 + 0.5**0.5 + 0))


def places(rows: int, columns: int) -> torch.Tensor:
    """Features that are their cell's place in [0, 1]."""
    axes = [(torch.arange(cells) + 0.5) / cells for cells in (rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, rows * columns, 2)


@pytest.mark.parametrize(("source", "target"), [((8, 8), (6, 6)), ((8, 12), (6, 9)), ((12, 4), (24, 8)), ((5, 9), (9, 5))])
def test_a_grid_is_resized_in_the_images_own_coordinates(source: tuple[int, int], target: tuple[int, int]) -> None:
    """A place stays a place, away from the border, where cells are cut."""
    rows, columns = target
    resized = resize_grid(places(*source), source, target)
    cell = max(a / b for a, b in zip(target, source, strict=True))
    border = max(1, round(cell))
    inner = [r * columns + c for r in range(border, rows - border) for c in range(border, columns - border)]
    assert torch.allclose(resized[:, inner], places(*target)[:, inner], atol=3e-3)
    assert torch.equal(resize_grid(places(*target), target, target), places(*target))
    flat = resize_grid(torch.full((2, source[0] * source[1], 3), 0.7), source, target)
    assert torch.allclose(flat, torch.full((2, rows * columns, 3), 0.7))


def test_rows_and_columns_are_resized_each_on_its_own() -> None:
    """What varies along rows only is resized as on any other number of columns, and the transposed grid to the transposed."""
    features = torch.randn(2, 7 * 4, 3, generator=torch.Generator().manual_seed(0))
    resized = resize_grid(features, (7, 4), (5, 6))
    turned = features.unflatten(1, (7, 4)).transpose(1, 2).flatten(1, 2)
    expected = resize_grid(turned, (4, 7), (6, 5)).unflatten(1, (6, 5)).transpose(1, 2).flatten(1, 2)
    assert torch.allclose(resized, expected, atol=1e-6)
    assert not torch.allclose(resized, resized.unflatten(1, (6, 5)).transpose(1, 2).flatten(1, 2), atol=0.1)
