"""Muon: the orthogonalisation against its polynomials of singular values, the polynomials against their optimum, steps against
torch's own."""

import pytest
import torch
from torch import Tensor, nn

from rf_repro.train import muon
from rf_repro.train.muon import COEFFICIENTS, LOWEST, MARGIN, Muon, orthogonalise

SHAPES = [(24, 16), (16, 24), (16, 16), (1, 8)]
TORCHS = ((3.4445, -4.7750, 2.0315),) * 5


def matrix(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps(optimizer: type[torch.optim.Optimizer], shapes: list[tuple[int, int]], **arguments: object) -> list[Tensor]:
    """Matrices after each of four steps."""
    parameters = [nn.Parameter(matrix(shape, index)) for index, shape in enumerate(shapes)]
    built = optimizer([{"params": parameters, "lr": 0.02}], weight_decay=0.1, **arguments)
    path = []
    for step in range(4):
        for index, parameter in enumerate(parameters):
            parameter.grad = matrix(parameter.shape, 100 * (1 + step) + index)
        built.step()
        path += [parameter.detach().clone() for parameter in parameters]
    return path


def applied(values: Tensor) -> Tensor:
    for a, b, c in COEFFICIENTS:
        values = a * values + b * values**3 + c * values**5
    return values


def test_orthogonalising_maps_singular_values_by_the_polynomials() -> None:
    given = matrix((3, 16, 24), 0).double() * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    u, values, vh = torch.linalg.svd(given, full_matrices=False)
    expected = u @ torch.diag_embed(applied(values / values.norm(dim=1, keepdim=True))) @ vh
    found = orthogonalise(given.float(), torch.float32, COEFFICIENTS, 1e-7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    rounded = orthogonalise(given.float(), torch.bfloat16, COEFFICIENTS, 1e-7)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - expected).norm() < 0.05 * expected.norm()


def test_each_polynomial_is_the_one_that_comes_closest_to_one() -> None:
    """Of degree 5 and odd: the best has the same error with alternating signs at four points (Chebyshev's theorem)."""
    low, high = LOWEST, 1.0
    for a, b, c in COEFFICIENTS:
        x = torch.linspace(low, high, 1_000_001, dtype=torch.float64)
        error = a * x + b * x**3 + c * x**5 - 1
        inner = error[1:-1][(error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) < 0]
        largest = float(error.abs().max())
        assert [float(error[0]), *inner.tolist(), float(error[-1])] == pytest.approx(
            [-largest, largest, -largest, largest], rel=5e-3
        )
        low, high = 1 - largest, MARGIN * (1 + largest)
    assert (low, high / MARGIN) == pytest.approx((0.669, 1.331), abs=3e-3)


def test_with_torchs_coefficients_its_steps_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum, weight decay and rates are torch's; what is stacked, and in how many stacks, changes nothing."""
    shapes = [*SHAPES, (24, 16), (16, 24)]
    for stacked in (2**22, 16 * 24, 1):
        monkeypatch.setattr(muon, "STACKED_NUMBERS", stacked)
        theirs = steps(torch.optim.Muon, shapes)
        for dtype in (torch.bfloat16, torch.float32):
            own = steps(Muon, shapes, dtype=dtype, coefficients=TORCHS)
            for one, other in zip(own, theirs, strict=True):
                assert (one - other).abs().max() < 0.02 * 0.06  # a few roundings of bf16, of updates of a rate of 0.02


def test_in_float32_it_is_torchs_step_with_an_exact_orthogonalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(grad: Tensor, coefficients: object, steps: int, eps: float) -> Tensor:
        flip = grad.shape[0] > grad.shape[1]
        own = orthogonalise((grad.T if flip else grad)[None], torch.float32, COEFFICIENTS, eps)[0]
        return own.T if flip else own

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", exact)
    for one, other in zip(steps(Muon, SHAPES, dtype=torch.float32), steps(torch.optim.Muon, SHAPES), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_matrix_without_a_gradient_is_left_alone() -> None:
    parameters = [nn.Parameter(matrix((4, 4), seed)) for seed in range(2)]
    before = parameters[0].detach().clone()
    parameters[1].grad = matrix((4, 4), 2)
    Muon([{"params": parameters, "lr": 0.02}], 0.1, torch.float32).step()
    assert torch.equal(parameters[0], before)
    assert not torch.equal(parameters[1], matrix((4, 4), 1))
