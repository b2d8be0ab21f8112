"""The flow's identities: velocity, perfect predictions, integration back to data, and the distribution of times."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from rf_repro.config.training_schema import ObjectiveConfig
from rf_repro.maths.flow import interpolate, sample_times, velocity, velocity_loss
from tests.model.small import largest_difference

FLOOR = 0.05


def draw(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_interpolation_runs_from_noise_at_0_to_data_at_1() -> None:
    clean, noise = draw(0, 3), draw(1, 3)
    z = interpolate(clean, noise, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert torch.equal(z[0], noise[0])
    assert largest_difference(z[1], 0.25 * clean[1] + 0.75 * noise[1]) < 1e-12
    assert torch.equal(z[2], clean[2])


def test_velocity_is_data_minus_noise_until_the_floor_acts() -> None:
    clean, noise = draw(0), draw(1)
    t = torch.tensor([0.0, 0.3, 0.9, 0.95, 0.97, 1.0], dtype=torch.float64)
    v = velocity(clean, interpolate(clean, noise, t), t, FLOOR)
    for index, time in enumerate(t.tolist()):
        expected = (clean[index] - noise[index]) * (1 if time <= 0.95 else (1 - time) / FLOOR)
        assert largest_difference(v[index], expected) < 1e-12


def test_a_perfect_prediction_has_no_loss_at_any_time() -> None:
    clean, noise = draw(0), draw(1)
    t = torch.tensor([0.0, 0.5, 0.94, 0.96, 0.99, 1.0], dtype=torch.float64)
    noisy = interpolate(clean, noise, t)
    assert float(velocity_loss(clean, clean, noisy, t, FLOOR)[0]) == 0
    assert float(velocity_loss(clean + 0.1, clean, noisy, t, FLOOR)[0]) > 0


def test_loss_is_the_squared_error_of_x_over_the_squared_floored_time() -> None:
    clean, noise, predicted = draw(0), draw(1), draw(2)
    t = torch.tensor([0.0, 0.5, 0.9, 0.96, 0.99, 1.0], dtype=torch.float64)
    total, count = velocity_loss(predicted, clean, interpolate(clean, noise, t), t, FLOOR)
    expected = sum(
        float((predicted[b, p, c] - clean[b, p, c]) ** 2) / max(1 - float(t[b]), FLOOR) ** 2
        for b in range(6)
        for p in range(4)
        for c in range(3)
    )
    assert float(total) == pytest.approx(expected)
    assert int(count) == 6 * 4 * 3


def test_sums_and_counts_of_two_batches_add_up_to_their_union() -> None:
    clean, noise, predicted, t = draw(0), draw(1), draw(2), torch.rand(6, dtype=torch.float64)
    noisy = interpolate(clean, noise, t)
    whole = velocity_loss(predicted, clean, noisy, t, FLOOR)
    parts = [velocity_loss(predicted[s], clean[s], noisy[s], t[s], FLOOR) for s in (slice(0, 2), slice(2, 6))]
    assert float(whole[0]) == pytest.approx(sum(float(total) for total, _ in parts))
    assert int(whole[1]) == sum(int(count) for _, count in parts)


def test_exact_velocity_integrates_back_to_data() -> None:
    clean, noise = draw(0), draw(1)
    steps, z = 20, noise
    for index in range(steps):
        t = torch.full((6,), index / steps, dtype=torch.float64)
        z = z + velocity(clean, z, t, FLOOR) / steps
    assert largest_difference(z, clean) < 1e-12


@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_logit_normal(stratified: bool) -> None:
    objective = ObjectiveConfig(time_mean=-0.8, time_std=0.6, time_stratified=stratified)
    t = sample_times(4000, objective, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float32
    assert 0 < float(t.min()) < float(t.max()) < 1
    result = stats.kstest(torch.logit(t.double()).numpy(), stats.norm(-0.8, 0.6).cdf)
    assert result.statistic < (0.0005 if stratified else 0.03)
    assert stratified or result.pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 7, 32])
def test_stratified_times_hold_one_of_each_bin_in_random_order(count: int) -> None:
    objective = ObjectiveConfig(time_stratified=True)
    t = sample_times(count, objective, torch.Generator().manual_seed(3))
    quantiles = stats.norm(objective.time_mean, objective.time_std).cdf(torch.logit(t.double()).numpy())
    bins = [int(q * count) for q in quantiles]
    assert sorted(bins) == list(range(count))
    assert count == 1 or bins != sorted(bins)
