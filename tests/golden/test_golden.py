"""Fifty steps of training give the recorded losses. A meant change: `python -m tests.golden.regenerate`."""

import json

import pytest

from tests.golden.regenerate import STEPS, VARIANTS, golden_losses, path_of

# Weights perturbed by 1e-6 move losses by up to 2e-4 in 50 steps (a code changes), another instruction set by 2e-6.
TOLERANCE, NORM_TOLERANCE = 1e-3, 5e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_the_recorded_ones(variant: str) -> None:
    expected = json.loads(path_of(variant).read_text())
    assert len(expected) == STEPS
    for step, (row, recorded) in enumerate(zip(golden_losses(variant), expected, strict=True), start=1):
        assert row.keys() == recorded.keys()
        for name, value in row.items():
            tolerance = NORM_TOLERANCE if name == "grad_norm" else TOLERANCE
            assert value == pytest.approx(recorded[name], rel=tolerance), f"step {step}: {name}"
