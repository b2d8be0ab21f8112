"""Online vector quantisation against loops over the pseudocode, and the balance it is there for."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation.assignment import algorithm1_assign, sinkhorn_assign
from rf_repro.representation.vq import OnlineVQ, usage_and_perplexity
from tests.model.small import largest_difference
from tests.representation.brute_force import of, sinkhorn_knopp

N, K, D = 40, 6, 5


def scores(seed: int = 0, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_the_plain_loop(iterations: int) -> None:
    expected = sinkhorn_knopp(scores().numpy().astype(np.float64), iterations)
    np.testing.assert_allclose(expected.sum(0), 1, atol=1e-12)  # columns were scaled last
    assert sinkhorn_assign(of(scores()), iterations).tolist() == expected.argmax(1).tolist()
    if iterations == 1:  # the cases differ, so each is really tested
        assert sinkhorn_assign(of(scores()), 3).tolist() != expected.argmax(1).tolist()
    assert expected.argmax(1).tolist() != scores().argmax(1).tolist()


def test_more_iterations_bring_both_marginals_to_balance() -> None:
    matrix = sinkhorn_knopp(scores().numpy().astype(np.float64), 50)
    np.testing.assert_allclose(matrix.sum(1), K / N, rtol=1e-6)  # equal mass a feature
    assert sinkhorn_assign(of(scores()), 50).tolist() == matrix.argmax(1).tolist()


def test_algorithm1_equals_the_loops_of_the_pseudocode() -> None:
    logits = scores(3).tolist()
    over_codes = []
    for row in logits:
        total = sum(math.exp(value) for value in row)
        over_codes.append([math.exp(value) / total for value in row])
    over_batch = [[0.0] * K for _ in range(N)]
    for k in range(K):
        total = sum(math.exp(over_codes[n][k]) for n in range(N))
        for n in range(N):
            over_batch[n][k] = math.exp(over_codes[n][k]) / total
    expected = [max(range(K), key=lambda k: over_batch[n][k]) for n in range(N)]
    assert algorithm1_assign(of(scores(3))).tolist() == expected
    assert expected != sinkhorn_assign(of(scores(3)), 1).tolist()


def codebook(seed: int = 0, **settings: object) -> OnlineVQ:
    vq = OnlineVQ(RepresentationConfig(kind="discrete", codebook_size=K, **settings), D)  # type: ignore[arg-type]
    vq.prototypes.copy_(torch.nn.functional.normalize(torch.randn(K, D, generator=torch.Generator().manual_seed(seed)), dim=1))
    return vq


def features(seed: int = 0, count: int = N, shift: float = 0.0) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(100 + seed)) + shift


@pytest.mark.parametrize(("balance", "iterations"), [("sinkhorn", 1), ("sinkhorn", 3), ("algorithm1", 1)])
def test_assignment_scores_are_cosines_over_the_temperature(balance: str, iterations: int) -> None:
    vq = codebook(balance=balance, sinkhorn_iterations=iterations, temperature=0.2)
    z = features() / features().norm(dim=1, keepdim=True)
    logits = z @ vq.prototypes.T / 0.2
    expected = algorithm1_assign(of(logits)) if balance == "algorithm1" else sinkhorn_assign(of(logits), iterations)
    assert torch.equal(vq.assign(features()), expected)
    assert torch.equal(vq.assign(7 * features()), expected)  # length says nothing
    assert torch.equal(vq.nearest(features()), logits.argmax(1))


@pytest.mark.parametrize("momentum", [0.0, 0.99])
@pytest.mark.parametrize("center", [False, True])
def test_update_equals_the_loop_and_leaves_unused_prototypes_alone(momentum: float, center: bool) -> None:
    vq = codebook(momentum=momentum, center=center)
    x = features(shift=0.7)
    if center:
        vq.mean.copy_(features(1).mean(0))
    mean, before = vq.mean.clone(), vq.prototypes.clone()
    codes = torch.randint(K - 2, (N,), generator=torch.Generator().manual_seed(0))  # the last two stay unused
    vq.update(x, codes)
    for k in range(K):
        members = [x[n].double() - mean.double() for n in range(N) if codes[n] == k]
        if not members:
            assert torch.equal(vq.prototypes[k], before[k])
            continue
        average = sum(member / member.norm() for member in members) / len(members)
        moved = momentum * before[k].double() + (1 - momentum) * average / average.norm()
        assert largest_difference(vq.prototypes[k], moved / moved.norm()) < 1e-6
    assert largest_difference(vq.prototypes.norm(dim=1), torch.ones(K)) < 1e-6
    assert (codes < K - 2).all()
    assert int(vq.num_updates) == 1
    expected_mean = 0.99 * mean + 0.01 * x.mean(0) if center else torch.zeros(D)
    assert largest_difference(vq.mean, expected_mean) < 1e-6


def test_a_given_momentum_replaces_the_configured_one() -> None:
    first, second = codebook(momentum=0.99), codebook(momentum=0.7)
    codes = first.assign(features())
    first.update(features(), codes, momentum=0.7)
    second.update(features(), codes)
    assert torch.equal(first.prototypes, second.prototypes)


def test_centring_takes_away_what_all_features_share() -> None:
    vq = codebook(center=True)
    x = features(shift=50.0)
    vq.initialise(x, torch.Generator().manual_seed(0))
    assert largest_difference(vq.mean, x.mean(0)) < 1e-4
    cosines = vq.normalise(x) @ vq.normalise(x).T
    assert float(cosines.min()) < -0.5
    plain = codebook().normalise(x)
    assert float((plain @ plain.T).min()) > 0.99  # without it, all features look alike


@pytest.mark.parametrize("count", [N, 4])
def test_prototypes_start_as_real_features(count: int) -> None:
    vq = codebook()
    x = features(count=count)
    vq.initialise(x, torch.Generator().manual_seed(0))
    similarity = vq.prototypes @ torch.nn.functional.normalize(x, dim=1).T
    assert largest_difference(similarity.amax(1), torch.ones(K)) < 1e-6
    chosen = similarity.argmax(1).tolist()
    assert len(set(chosen)) == min(K, count)  # repeated only when there are fewer features than prototypes
    again = codebook()
    again.initialise(x, torch.Generator().manual_seed(1))
    assert not torch.equal(again.prototypes, vq.prototypes)


def test_usage_and_perplexity_closed_forms() -> None:
    assert usage_and_perplexity(torch.arange(8), 8) == pytest.approx((1.0, 8.0))
    assert usage_and_perplexity(torch.zeros(5, dtype=torch.int64), 8) == pytest.approx((1 / 8, 1.0))
    usage, perplexity = usage_and_perplexity(torch.tensor([0, 0, 0, 1]), 4)
    assert (usage, perplexity) == pytest.approx((0.5, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))))


def test_sinkhorn_keeps_a_skewed_batch_from_collapsing() -> None:
    """Features in a narrow cone, prototypes all around: the nearest ones are few; balancing spreads the batch."""
    generator = torch.Generator().manual_seed(0)
    cone = torch.nn.functional.one_hot(torch.zeros(512, dtype=torch.int64), 16) + 0.15 * torch.randn(512, 16, generator=generator)
    around = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    perplexities = {}
    for balance in ("sinkhorn", "algorithm1"):
        vq = OnlineVQ(RepresentationConfig(kind="discrete", codebook_size=32, balance=balance, temperature=0.1), 16)  # type: ignore[arg-type]
        vq.prototypes.copy_(around)
        perplexities[balance] = usage_and_perplexity(vq.assign(cone), 32)[1]
        perplexities["nearest"] = usage_and_perplexity(vq.nearest(cone), 32)[1]
    assert perplexities["nearest"] < 4
    assert perplexities["sinkhorn"] > 20
    assert perplexities["algorithm1"] < perplexities["sinkhorn"] / 3  # the published form hardly balances


def test_assigning_changes_nothing_and_updates_make_prototypes_follow() -> None:
    vq = codebook(momentum=0.5)
    before = {name: tensor.clone() for name, tensor in vq.state_dict().items()}
    vq.assign(features())
    assert all(torch.equal(tensor, before[name]) for name, tensor in vq.state_dict().items())
    x = torch.tensor([[0.0, 0, 0, 0, 2.0]]).repeat(N, 1)
    for _ in range(30):
        vq.update(x, torch.full((N,), 2))
    assert largest_difference(vq.prototypes[2], x[0] / 2) < 1e-6
