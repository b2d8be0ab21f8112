"""Codebook and feature statistics over ranks: each gives its own features, all end as one process with all of them does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation import assignment
from rf_repro.representation.continuous import FeatureStatistics
from rf_repro.representation.vq import OnlineVQ, usage_and_perplexity
from tests.model.small import largest_difference
from tests.representation.brute_force import brute_force, wrong
from tests.train.processes import run_ranks

pytestmark = pytest.mark.dist

CASES = [("sinkhorn", 1, 0.5), ("sinkhorn", 3, 0.1), ("algorithm1", 1, 0.1)]
K, D, STEPS = 128, 24, 3
SPLITS = {2: [[130, 71], [0, 201], [200, 1]], 3: [[90, 0, 111], [1, 150, 50], [0, 0, 201]]}  # rows of each rank, by step


def batch(step: int) -> Tensor:
    """Features in the order of their kinds, so that no rank has what another has."""
    generator = torch.Generator().manual_seed(step)
    centres = torch.randn(30, D, generator=torch.Generator().manual_seed(99)) + 0.7
    which = torch.randint(30, (201,), generator=generator).sort().values
    return centres[which] + 0.5 * torch.randn(201, D, generator=generator)


def own(ranks: Ranks, step: int) -> Tensor:
    if ranks.size == 1:
        return batch(step)
    return batch(step).split(SPLITS[ranks.size][step])[ranks.rank]


def train(ranks: Ranks) -> dict[str, Any]:
    """A codebook of each case: initial prototypes, then steps of assignment and update. And channel statistics."""
    # Chunks, and guesses that other ranks' features disprove.
    assignment.CHUNK_NUMBERS, assignment.CANDIDATES, assignment.BLOCK = 50 * K, 4, 1
    found: dict[str, Any] = {}
    for case in CASES:
        config = RepresentationConfig(kind="discrete", codebook_size=K, center=True, balance=case[0],
                                      sinkhorn_iterations=case[1], temperature=case[2])  # type: ignore[arg-type]  # fmt: skip
        vq = OnlineVQ(config, D)
        vq.initialise(own(ranks, 0), torch.Generator().manual_seed(5), ranks)
        steps = [{name: tensor.clone() for name, tensor in vq.state_dict().items()}]
        for step in range(STEPS):
            codes = vq.assign(own(ranks, step), ranks)
            vq.update(own(ranks, step), codes, momentum=0.5, ranks=ranks)
            steps.append({"codes": codes, "usage": usage_and_perplexity(codes, K, ranks)})
            steps[-1] |= {name: tensor.clone() for name, tensor in vq.state_dict().items()}
        nothing = torch.zeros(0, D)
        vq.update(nothing, vq.assign(nothing, ranks), ranks=ranks)
        steps.append({name: tensor.clone() for name, tensor in vq.state_dict().items()})
        found[str(case)] = steps
    statistics = FeatureStatistics(D)
    statistics.initialise(own(ranks, 0), ranks)
    found["statistics"] = [statistics.mean.clone(), statistics.variance.clone()]
    for step in range(STEPS):
        statistics.update(own(ranks, step), ranks)
        found["statistics"] += [statistics.mean.clone(), statistics.variance.clone()]
    statistics.update(torch.zeros(0, D), ranks)
    found["statistics"] += [statistics.mean.clone(), statistics.variance.clone()]
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    before = assignment.CHUNK_NUMBERS, assignment.CANDIDATES, assignment.BLOCK
    try:
        return train(ALONE)
    finally:
        assignment.CHUNK_NUMBERS, assignment.CANDIDATES, assignment.BLOCK = before


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_with_uneven_shares_end_as_one_process_does(size: int, tmp_path: Path, alone: dict[str, Any]) -> None:
    every = run_ranks(train, size, tmp_path)
    for case in map(str, CASES):
        expected, found = alone[case], [rank[case] for rank in every]
        for step in range(STEPS):
            codes = torch.cat([rank[1 + step]["codes"] for rank in found])
            assert [len(rank[1 + step]["codes"]) for rank in found] == SPLITS[size][step]
            assert torch.equal(codes, expected[1 + step]["codes"])
            assert all(rank[1 + step]["usage"] == expected[1 + step]["usage"] for rank in found)
        for row, states in enumerate(zip(*found, strict=True)):
            for name in ("prototypes", "mean", "num_updates"):
                assert all(torch.equal(state[name], states[0][name]) for state in states)  # bit by bit alike
                assert largest_difference(states[0][name].float(), expected[row][name].float()) < 5e-7
        assert torch.equal(found[0][-1]["prototypes"], found[0][-2]["prototypes"])  # no rank had a feature
        assert torch.equal(found[0][-1]["mean"], found[0][-2]["mean"])
    for index, expected in enumerate(alone["statistics"]):
        assert all(torch.equal(rank["statistics"][index], every[0]["statistics"][index]) for rank in every)
        assert largest_difference(every[0]["statistics"][index], expected) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_one_process_is_right(case: tuple[str, int, float], alone: dict[str, Any]) -> None:
    """What ranks are compared with is compared with brute force; and the steps are many codes and moves long."""
    steps = alone[str(case)]
    for step in range(STEPS):
        config = RepresentationConfig(kind="discrete", codebook_size=K, center=True, balance=case[0],
                                      sinkhorn_iterations=case[1], temperature=case[2])  # type: ignore[arg-type]  # fmt: skip
        vq = OnlineVQ(config, D)
        vq.load_state_dict({name: steps[step][name] for name in vq.state_dict()})
        assert wrong(steps[step + 1]["codes"], brute_force(vq, batch(step))) == 0
        assert len(steps[step + 1]["codes"].unique()) > 40
        assert largest_difference(steps[step + 1]["prototypes"], steps[step]["prototypes"]) > 0.1


def test_the_statistics_of_one_process_are_right(alone: dict[str, Any]) -> None:
    exact = batch(0).double()
    assert largest_difference(alone["statistics"][0], exact.mean(0).float()) < 1e-6
    assert largest_difference(alone["statistics"][1], exact.var(0, correction=0).float()) < 1e-6
