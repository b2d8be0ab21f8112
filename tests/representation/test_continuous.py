"""Continuous representation tokens: the features' scale, and a diffusion head that learns a conditional distribution."""

import pytest
import torch

from rf_repro.config.representation_schema import ContinuousConfig
from rf_repro.config.schema import SamplingConfig
from rf_repro.config.training_schema import ObjectiveConfig
from rf_repro.model.initialise import initialise
from rf_repro.representation.continuous import STATISTICS_DECAY, ContinuousTokens, FeatureStatistics


def test_statistics_standardise_their_first_batch_and_then_follow() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(6, 50, 5) * torch.arange(1.0, 6) + 3, torch.randn(6, 50, 5) - 1
    statistics = FeatureStatistics(5)
    statistics.initialise(first)
    z = statistics.standardise(first).flatten(0, 1)
    assert torch.allclose(z.mean(0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(z.var(0, correction=0), torch.ones(5), atol=1e-4)
    mean, variance = statistics.mean.clone(), statistics.variance.clone()
    statistics.update(second)
    flat = second.flatten(0, 1)
    assert torch.allclose(statistics.mean, STATISTICS_DECAY * mean + (1 - STATISTICS_DECAY) * flat.mean(0), atol=1e-6)
    expected = STATISTICS_DECAY * variance + (1 - STATISTICS_DECAY) * ((flat - flat.mean(0)) ** 2).mean(0)
    assert torch.allclose(statistics.variance, expected, atol=1e-5)
    assert torch.allclose(statistics.center(second), second - statistics.mean)


def test_the_head_learns_where_each_condition_puts_its_features() -> None:
    """Two conditions, two Gaussians: samples have their means and spreads."""
    torch.manual_seed(0)
    tokens = ContinuousTokens(16, 2, 1, 1.0, 1e-6, ContinuousConfig(width=64, num_layers=2, draws=4, steps=25))
    initialise(tokens, 0)
    centres, spread = torch.tensor([[1.5, -1.0], [-1.0, 0.5]]), 0.3
    conditions = torch.eye(16)[:2]
    optimizer, generator = torch.optim.Adam(tokens.parameters(), 3e-3), torch.Generator().manual_seed(0)
    objective, kept = ObjectiveConfig(), torch.zeros(128, dtype=torch.bool)
    for _ in range(250):
        side = torch.randint(2, (128,), generator=generator)
        values = centres[side] + spread * torch.randn(128, 2, generator=generator)
        total, count = tokens.loss(tokens.predict(conditions[side])[:, None], values[:, None], kept, objective, generator)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for side in range(2):
            condition = tokens.predict(conditions[side].expand(2000, -1))
            drawn = tokens.draw(condition, None, torch.randn(2000, 2, generator=generator), SamplingConfig())
            assert drawn.mean(0).tolist() == pytest.approx(centres[side].tolist(), abs=0.15)
            assert drawn.std(0).tolist() == pytest.approx([spread, spread], abs=0.07)
