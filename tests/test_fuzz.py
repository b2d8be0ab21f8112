"""A few hundred damaged files end with a result or with one clear line; `make fuzz` tries thousands."""

from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from tests.fuzz.engine import fuzz, not_a_line
from tests.fuzz.targets import TARGETS, Target

MUTANTS = 200
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux counts it")


@pytest.mark.slow
def test_damaged_files_end_with_a_result_or_one_line() -> None:
    found = [finding for finding in fuzz(TARGETS, range(MUTANTS), seed=1) if finding is not None]
    assert not found, "\n".join(f"{one.index} ({one.damage}): {one.what}" for one in found)


def fail(folder: Path) -> None:
    raise KeyError("what no user can read")


def hang(folder: Path) -> None:
    while True:
        pass


def eat(folder: Path) -> None:
    bytearray(3 << 30)


def shout(folder: Path) -> None:
    raise UserError("line\n" * 8)


@pytest.mark.parametrize(("run", "what"), [(fail, "KeyError"), (hang, "TimeoutError"), (eat, "MemoryError"), (shout, "9 lines")])
def test_what_must_not_happen_is_found(run, what, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.engine.SECONDS", 1)
    target = Target("bad", lambda folder: (folder / "file").write_text("text"), run)
    (finding,) = fuzz([target], [0], seed=0)
    assert finding is not None
    assert what in finding.what
    good = Target("good", target.prepare, lambda folder: None)
    assert list(fuzz([good], [0, 1], seed=0)) == [None, None]


@pytest.mark.parametrize("text", ["", " \n", "x" * 2_001, "line\n" * 8, "a\x1b[31mred", "a\u202egnp.exe"])
def test_what_is_no_line_of_error_is_found(text: str) -> None:
    """Escape sequences too: `UserError` shows them as their codes, and the fuzz would see it if it did so no more."""
    assert not_a_line(text)
    assert not not_a_line("config.json: is a list, must be an object; write it anew")
