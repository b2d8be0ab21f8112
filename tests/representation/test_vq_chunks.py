"""Online vector quantisation at a size where scores come in chunks, against float64 brute force over the whole matrix."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation import assignment
from rf_repro.representation.assignment import FLAT, LogMasses, LogMeans, Scores, algorithm1_assign, sinkhorn_assign
from rf_repro.representation.vq import OnlineVQ
from tests.model.small import largest_difference
from tests.representation.brute_force import brute_force, of, sinkhorn_knopp, wrong

CASES = [("sinkhorn", 1, 0.5), ("sinkhorn", 1, 0.05), ("sinkhorn", 3, 0.1), ("algorithm1", 1, 0.5), ("algorithm1", 1, 0.05)]
MANY, CODES, WIDTH = 600, 384, 48


def large_codebook(balance: str, iterations: int, temperature: float, seed: int = 0, **settings: object) -> OnlineVQ:
    config = RepresentationConfig(kind="discrete", codebook_size=CODES, balance=balance, sinkhorn_iterations=iterations,
                                  temperature=temperature, **settings)  # type: ignore[arg-type]  # fmt: skip
    vq = OnlineVQ(config, WIDTH)
    vq.initialise(clusters(seed), torch.Generator().manual_seed(seed))
    return vq


def clusters(seed: int, count: int = MANY, in_order: bool = False) -> Tensor:
    """Features around 60 centres, one common to all; those of a centre beside each other where in order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(99)) + 1.0
    which = torch.randint(60, (count,), generator=generator)
    which = which.sort().values if in_order else which
    return centres[which] + 0.5 * torch.randn(count, WIDTH, generator=generator)


class CountedRows:
    """How many rows of scores are made, in calls of how many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        made = OnlineVQ.scores

        def counting(vq: OnlineVQ, features_ND: Tensor, temperature: float) -> Scores:
            scores = made(vq, features_ND, temperature)

            def rows(chosen: slice | Tensor) -> Tensor:
                result = scores.rows(chosen)
                self.calls.append(len(result))
                return result

            return replace(scores, rows=rows)

        monkeypatch.setattr(OnlineVQ, "scores", counting)

    def take(self) -> list[int]:
        taken, self.calls = self.calls, []
        return taken


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedRows:
    return CountedRows(monkeypatch)


@pytest.mark.parametrize("rows", [1, 7, 100, 10_000])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_assignment_is_that_of_float64_brute_force_whatever_the_chunks(
    case: tuple[str, int, float], rows: int, monkeypatch: pytest.MonkeyPatch, counted: CountedRows
) -> None:
    vq, x = large_codebook(*case, center=True), clusters(1)
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", rows * CODES)
    codes = vq.assign(x)
    assert codes.dtype == torch.int64
    assert wrong(codes, brute_force(vq, x)) == 0
    assert max(counted.take()) <= rows
    assert torch.equal(vq.nearest(x), (vq.normalise(x) @ vq.prototypes.T).argmax(1))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_differs_from_the_nearest_prototype_so_balance_is_tested(case: tuple[str, int, float]) -> None:
    vq, x = large_codebook(*case), clusters(1)
    assert float((brute_force(vq, x).argmax(1) != vq.nearest(x)).float().mean()) > 0.005


@pytest.mark.parametrize("block", [1, 7])  # 7 does not divide the number of codes
@pytest.mark.parametrize("case", CASES, ids=str)
def test_features_in_an_order_that_misleads_the_guess_are_scored_again(
    case: tuple[str, int, float], block: int, monkeypatch: pytest.MonkeyPatch, counted: CountedRows
) -> None:
    """The first chunk holds one kind of feature, so what it tells of the codes' masses is wrong for the batch."""
    vq, x = large_codebook(*case), clusters(2, in_order=True)
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", 40 * CODES)
    monkeypatch.setattr(assignment, "CANDIDATES", 3)
    monkeypatch.setattr(assignment, "BLOCK", block)
    assert wrong(vq.assign(x), brute_force(vq, x)) == 0
    made = counted.take()
    again = sum(made) - case[1] * MANY
    assert 0 < again <= MANY
    assert max(made) <= 40


def test_a_code_that_was_not_kept_wins_where_the_bound_says_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes kept for the first two rows turn out to be what all the others want."""
    matrix = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    matrix[2:, :4] += 9.0
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", 2 * 6)
    monkeypatch.setattr(assignment, "CANDIDATES", 2)
    monkeypatch.setattr(assignment, "BLOCK", 1)
    expected = torch.from_numpy(sinkhorn_knopp(matrix.numpy().astype(np.float64), 1).argmax(1))
    first = matrix[:2].log_softmax(1)
    kept = (first - first.logsumexp(0)).topk(2, 1).indices
    assert not (kept == expected[:2, None]).any(1).all()
    assert torch.equal(sinkhorn_assign(of(matrix), 1), expected)


@pytest.mark.parametrize(("block", "candidates"), [(5, 2), (32, 1), (383, 1), (384, 1), (500, 16)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_and_tiles_change_nothing(
    case: tuple[str, int, float], block: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vq, x = large_codebook(*case), clusters(1)
    for name, value in {
        "CHUNK_NUMBERS": 100 * CODES,
        "TILE_NUMBERS": 3 * CODES,
        "BLOCK": block,
        "CANDIDATES": candidates,
    }.items():
        monkeypatch.setattr(assignment, name, value)
    assert wrong(vq.assign(x), brute_force(vq, x)) == 0


@pytest.mark.parametrize("limit", [math.inf, 9.0])
@pytest.mark.parametrize("balance", ["sinkhorn", "algorithm1"])
def test_ties_across_blocks_give_one_of_the_best_and_never_a_code_that_is_not_there(
    balance: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "BLOCK", 4)  # of 7 codes: the last place is empty
    monkeypatch.setattr(assignment, "CANDIDATES", 1)
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", 5 * 7)
    some = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    for columns in ([0] * 7, [0, 1, 0, 1, 2, 3, 2], [3, 2, 1, 0, 0, 1, 2]):
        matrix = some[:, columns]
        scores = replace(of(matrix), limit=limit)
        codes = sinkhorn_assign(scores, 1) if balance == "sinkhorn" else algorithm1_assign(scores)
        rows = matrix.double().log_softmax(1) if balance == "sinkhorn" else matrix.double().softmax(1)
        assert int(codes.max()) < 7
        assert wrong(codes, rows.log_softmax(0)) == 0


@pytest.mark.parametrize("limit", [math.inf, FLAT])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_scores_as_large_as_flat_ones_may_be_are_as_exact_as_others(limit: float, iterations: int) -> None:
    matrix = FLAT * (2 * torch.rand(300, 90, generator=torch.Generator().manual_seed(0)) - 1).sign()
    matrix[:, ::3] *= torch.rand(300, 30, generator=torch.Generator().manual_seed(1))
    matrix[:, 1], matrix[:, 2], matrix[0], matrix[1] = FLAT, -FLAT, FLAT, -FLAT
    exact = matrix.double()
    for _ in range(iterations):
        exact = exact.log_softmax(1).log_softmax(0)
    codes = sinkhorn_assign(replace(of(matrix), limit=limit), iterations)
    assert wrong(codes, exact, tolerance=1e-5) == 0  # scores up to 20
    once = algorithm1_assign(replace(of(matrix), limit=limit))
    assert wrong(once, matrix.double().softmax(1).log_softmax(0)) == 0


def test_flat_is_what_a_mild_temperature_makes() -> None:
    x = clusters(1)
    assert large_codebook("sinkhorn", 1, 0.5).scores(x, 0.5).flat
    assert not large_codebook("sinkhorn", 1, 0.04).scores(x, 0.04).flat
    assert float(large_codebook("sinkhorn", 1, 0.5).scores(x, 0.5).rows(slice(0, 600)).abs().max()) <= 2.000001


@pytest.mark.parametrize("balance", ["sinkhorn", "algorithm1"])
def test_one_pass_over_the_scores_is_enough_for_a_shuffled_batch(
    balance: str, monkeypatch: pytest.MonkeyPatch, counted: CountedRows
) -> None:
    vq, x = large_codebook(balance, 1, 0.5), clusters(1)
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", 200 * CODES)
    vq.assign(x)
    assert sum(counted.take()) < 1.1 * MANY


def test_masses_of_codes_in_parts_keep_what_float32_would_lose() -> None:
    parts = [
        torch.full((5, 3), -200.0),
        torch.full((4, 3), -50.0),
        torch.tensor([[-50.0, -300.0, 80.0]]),
        torch.full((2, 3), -99.0),
    ]
    masses = LogMasses(of(parts[0]))
    for part in parts:
        masses.add(part)
    expected = torch.cat(parts).double().logsumexp(0)
    assert torch.allclose(masses.offsets(), expected, rtol=1e-7)
    low = LogMasses(of(parts[0]))
    low.add(parts[0])
    assert torch.allclose(low.offsets(), parts[0].double().logsumexp(0), rtol=1e-7)  # exp(-200) is 0 in float32
    means = LogMeans(of(parts[0]))
    probabilities = torch.tensor([[1e-9, 3e-6, 0.5], [3e-9, 5e-6, 0.7], [5e-9, 1e-6, 0.1]])
    means.add(probabilities[:1])
    means.add(probabilities[1:])
    exact = [math.log1p(sum(math.expm1(p) for p in column) / 3) for column in probabilities.double().T.tolist()]
    assert means.offsets().tolist() == pytest.approx(exact, rel=1e-6)


def test_a_sharp_temperature_neither_overflows_nor_underflows() -> None:
    """exp of these scores spans far more than float32."""
    for balance in ("sinkhorn", "algorithm1"):
        vq, x = large_codebook(balance, 1, 0.002), clusters(1)
        assert wrong(vq.assign(x), brute_force(vq, x), tolerance=1e-3) == 0  # scores up to 500


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_neither_tf32_nor_bf16_products_nor_autocast_reach_the_scores(precision: str) -> None:
    vq, x = large_codebook("sinkhorn", 1, 0.1), clusters(1)
    expected, before = vq.assign(x), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(vq.assign(x), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_chunks_change_an_update_by_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (large_codebook("sinkhorn", 1, 0.5, center=True) for _ in range(2))
    x = clusters(1).bfloat16()
    codes = whole.assign(x)
    whole.update(x, codes, momentum=0.5)
    monkeypatch.setattr(assignment, "CHUNK_NUMBERS", 7 * WIDTH)
    parts.update(x, codes, momentum=0.5)
    assert largest_difference(whole.prototypes, parts.prototypes) < 1e-6
    assert largest_difference(whole.mean, parts.mean) < 1e-6


def test_no_features_change_nothing() -> None:
    vq = large_codebook("sinkhorn", 2, 0.5, center=True)
    before = {name: tensor.clone() for name, tensor in vq.state_dict().items()}
    nothing = torch.zeros(0, WIDTH)
    codes = vq.assign(nothing)
    vq.update(nothing, codes)
    assert codes.shape == vq.nearest(nothing).shape == (0,)
    assert torch.equal(vq.prototypes, before["prototypes"])
    assert torch.equal(vq.mean, before["mean"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda_assigns_as_the_cpu_does_with_tf32_switched_on(
    case: tuple[str, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    vq, x = large_codebook(*case, center=True), clusters(1)
    exact, codes = brute_force(vq, x), vq.assign(x)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        vq.cuda()
        for rows in (7, 100, 10_000):
            monkeypatch.setattr(assignment, "CHUNK_NUMBERS", rows * CODES)
            on_gpu = vq.assign(x.cuda()).cpu()
            assert wrong(on_gpu, exact) == 0
            assert int((on_gpu != codes).sum()) <= 1  # a tie as float32 rounds
        vq.update(x.cuda(), codes.cuda(), momentum=0.5)
    finally:
        torch.set_float32_matmul_precision(before)
    on_cpu = large_codebook(*case, center=True)
    on_cpu.update(x, codes, momentum=0.5)
    assert largest_difference(vq.prototypes.cpu(), on_cpu.prototypes) < 1e-6
