"""Muon: the orthogonalisation against its polynomial of singular values, steps against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from rf_repro.train.muon import Muon, orthogonalise

SHAPES = [(24, 16), (16, 24), (16, 16), (1, 8)]
A, B, C = COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrix(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps(optimizer: type[torch.optim.Optimizer], shape: tuple[int, int], **arguments: object) -> list[Tensor]:
    """A matrix after each of four steps."""
    parameter = nn.Parameter(matrix(shape, 0))
    built = optimizer([{"params": [parameter], "lr": 0.02}], weight_decay=0.1, **arguments)
    path = []
    for step in range(4):
        parameter.grad = matrix(shape, 1 + step)
        built.step()
        path.append(parameter.detach().clone())
    return path


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonalising_maps_singular_values_by_the_quintic(shape: tuple[int, int]) -> None:
    given = matrix(shape, 0).double()
    u, values, vh = torch.linalg.svd(given, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    expected = u @ torch.diag(values) @ vh
    found = orthogonalise(given.float(), COEFFICIENTS, 5, 1e-7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_bf16_it_is_torchs_own_and_in_float32_close_to_it(shape: tuple[int, int]) -> None:
    own, theirs = steps(Muon, shape, dtype=torch.bfloat16), steps(torch.optim.Muon, shape)
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))
    exact = steps(Muon, shape, dtype=torch.float32)
    for one, other in zip(exact, theirs, strict=True):
        assert 0 < (one - other).abs().max() < 0.02 * 0.04  # a few roundings of bf16, of updates of a rate of 0.02


def test_in_float32_it_is_torchs_step_with_an_exact_orthogonalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum, weight decay and rates are torch's, whose orthogonalisation is replaced here."""
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", orthogonalise)
    for shape in SHAPES:
        for one, other in zip(steps(Muon, shape, dtype=torch.float32), steps(torch.optim.Muon, shape), strict=True):
            assert torch.equal(one, other)


def test_a_matrix_without_a_gradient_is_left_alone() -> None:
    parameter = nn.Parameter(matrix((4, 4), 0))
    before = parameter.detach().clone()
    Muon([{"params": [parameter], "lr": 0.02}], 0.1, torch.float32).step()
    assert torch.equal(parameter, before)
