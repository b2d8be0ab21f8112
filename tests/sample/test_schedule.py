"""Time steps, guidance and top-k draws against their closed forms."""

import pytest
import torch
from scipy import stats

from rf_repro.maths.schedule import guide, sample_top_k, shifted_times, timestep_shift
from tests.model.small import largest_difference


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_shift_is_sd3s_form_on_the_noise_level(alpha: float) -> None:
    times = shifted_times(8, alpha)
    assert times.shape == (9,)
    for index in range(9):
        s = 1 - index / 8
        assert 1 - float(times[index]) == pytest.approx(alpha * s / (1 + (alpha - 1) * s), abs=1e-12)
    assert (float(times[0]), float(times[-1])) == (0, 1)
    assert bool((times.diff() > 0).all())
    assert alpha != 3.0 or float(times[4]) < 0.5  # a larger image spends more steps near noise


def test_shift_grows_with_the_root_of_the_patches() -> None:
    assert timestep_shift(256, 256) == 1
    assert timestep_shift(4096, 256) == 4


def test_guidance_of_1_is_conditional_of_0_unconditional_and_linear_between_and_beyond() -> None:
    conditional, unconditional = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(guide(conditional, unconditional, 1), conditional)
    assert torch.equal(guide(conditional, unconditional, 0), unconditional)
    expected = unconditional + 2.5 * (conditional - unconditional)
    assert largest_difference(guide(conditional, unconditional, 2.5), expected) < 1e-5


def test_top_k_draws_follow_the_softmax_of_the_k_largest() -> None:
    count, top_k = 20_000, 4
    logits = torch.tensor([0.3, 2.0, -1.0, 1.2, 0.9, -3.0, 1.9])
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    drawn = sample_top_k(logits.expand(count, 7), top_k, uniform)
    kept = sorted(range(7), key=lambda k: -float(logits[k]))[:top_k]
    frequencies = torch.bincount(drawn, minlength=7)
    assert set(drawn.tolist()) == set(kept)
    expected = torch.softmax(logits[kept].double(), 0)
    result = stats.chisquare(frequencies[kept].numpy(), (count * expected / expected.sum()).numpy())
    assert result.pvalue > 1e-3


def test_top_k_of_one_is_the_largest_and_of_more_than_all_is_all() -> None:
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample_top_k(logits, 1, uniform), logits.argmax(1))
    everything = sample_top_k(torch.zeros(600, 6), 50, torch.linspace(0, 1 - 1e-7, 600))
    assert torch.bincount(everything, minlength=6).tolist() == [100] * 6


def test_extreme_uniform_numbers_stay_inside_the_top_k() -> None:
    logits = torch.tensor([[5.0, -40.0, 4.0, -50.0]]).expand(2, 4)
    drawn = sample_top_k(logits, 2, torch.tensor([0.0, 1 - 2**-24]))
    assert drawn.tolist() == [0, 2]
