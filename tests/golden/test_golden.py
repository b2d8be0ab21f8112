"""Three steps of every kind of training give the recorded losses. A meant change: `python -m tests.golden.regenerate`."""

import pytest

from rf_repro.config.schema import RESULTS_VERSION
from tests.golden.regenerate import CASES, STEPS, differs, golden_losses, recorded


def test_the_losses_are_of_the_version_that_hashes_hold() -> None:
    assert recorded()["results_version"] == RESULTS_VERSION, "a change of the losses and a change of the version go together"
    assert list(recorded()["losses"]) == list(CASES)  # type: ignore[call-overload]


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_recorded_ones(case: str) -> None:
    expected = recorded()["losses"][case]  # type: ignore[index]
    assert len(expected) == STEPS
    for step, (row, known) in enumerate(zip(golden_losses(case), expected, strict=True), start=1):
        assert row.keys() == known.keys()
        for name, value in row.items():
            assert not differs(case, name, value, known[name]), f"step {step}: {name} is {value}, was {known[name]}"
