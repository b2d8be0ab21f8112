"""Averages against their closed forms."""

import pytest
import torch

from rf_repro.train.ema import Average


def test_constant_decay_is_the_geometric_sum() -> None:
    values = torch.randn(20, 3, dtype=torch.float64).float()
    average = Average({"w": values[0]}, 0.9, warm_up=False)
    for step in range(1, 20):
        average.update({"w": values[step]}, step)
    expected = 0.9**19 * values[0].double() + sum(0.1 * 0.9 ** (19 - n) * values[n].double() for n in range(1, 20))
    torch.testing.assert_close(average.values["w"].double(), expected, rtol=1e-5, atol=1e-6)


def test_warm_up_forgets_the_start() -> None:
    start, later = torch.ones(2), torch.zeros(2)
    average = Average({"w": start}, 0.995, warm_up=True)
    remaining = 1.0
    for step in range(1, 60):
        average.update({"w": later}, step)
        remaining *= min(0.995, (1 + step) / (10 + step))
        assert average.values["w"].tolist() == pytest.approx([remaining] * 2, rel=1e-5)
    assert remaining < 1e-6
    full = Average({"w": start}, 0.995, warm_up=False)
    for step in range(1, 60):
        full.update({"w": later}, step)
    assert float(full.values["w"][0]) == pytest.approx(0.995**59, rel=1e-5)


def test_warm_up_ends_at_the_configured_decay() -> None:
    average = Average({"w": torch.zeros(1)}, 0.5, warm_up=True)
    average.update({"w": torch.ones(1)}, 1000)  # (1 + n) / (10 + n) is above 0.5 by then
    assert float(average.values["w"]) == 0.5


def test_an_average_is_a_copy_in_fp32() -> None:
    tensor = torch.ones(2, dtype=torch.bfloat16)
    average = Average({"w": tensor}, 0.9, warm_up=False)
    tensor.zero_()
    assert average.values["w"].dtype == torch.float32
    assert average.values["w"].tolist() == [1, 1]
