"""Run directories as a report reads them, and those that it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reports.statistics import Interval
from rf_repro.core.action_dir import all_attempts
from rf_repro.core.errors import UserError
from rf_repro.core.outputs import require_unchanged
from rf_repro.core.records import Attempt, EvalResult, RunRecord
from rf_repro.core.run_dir import RunDir


class DamagedRun(UserError):
    """A run that a report cannot read, or that contradicts itself; a report leaves it out by name."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True)
class Run:
    """One run directory, every file of it read at most once: several tables share a run."""

    dir: RunDir
    record: RunRecord

    @property
    def name(self) -> str:
        return f"{self.record.variant}/{self.record.config_hash[:12]}-s{self.record.seed}"

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, one a step in order: where a resumed run logged a step twice, the later row stands."""
        return [row for _, row in sorted({row["step"]: row for row in self.dir.metrics()}.items())]

    @cached_property
    def attempts(self) -> list[Attempt]:
        """At the run and at its evaluations."""
        return all_attempts(self.dir)

    @cached_property
    def results(self) -> dict[str, EvalResult]:
        """Every evaluation done, by name."""
        found = {name: self.dir.eval_result(name) for name in self.dir.eval_names()}
        return {name: result for name, result in found.items() if result is not None}

    @cached_property
    def intervals(self) -> dict[tuple[str, tuple[int, ...]], dict[tuple[str, ...], Interval]]:
        """(evaluation, seeds) -> tasks -> interval of the variant over those seeds, kept with the first of its runs."""
        return {}

    @cached_property
    def _items(self) -> dict[str, list[dict[str, Any]]]:
        return {}

    def items(self, name: str) -> list[dict[str, Any]]:
        """Per-image rows of an evaluation. Raises DamagedRun where they cannot be read."""
        if name not in self._items:
            try:
                self._items[name] = self.dir.eval_items(name)
            except UserError as error:
                raise DamagedRun(self.dir.path, str(error)) from None
        return self._items[name]

    def require_whole(self) -> None:
        """Reads what a report reads of every run, but for items. Raises UserError where it cannot, or files were changed."""
        self.dir.config()
        _ = self.metrics, self.results, self.attempts
        listed = {name: digest for outputs in self.record.outputs.values() for name, digest in outputs.items()}
        require_unchanged(self.dir.path, {name: listed[name] for name in listed if name.startswith(("evals/", "metrics."))})


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run below the folders that can be read, each folder once. Raises UserError as `read_runs`."""
    return read_runs(folders)[0]


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[DamagedRun]]:
    """Every run below the folders, each folder once; and those that cannot be read.

    Raises:
        UserError: a folder does not exist.
    """
    found: dict[Path, Run] = {}
    damaged: dict[Path, DamagedRun] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"--runs {folder}: no such folder; name a folder of runs, for example runs or reports/results/tiny")
        for run_dir in RunDir.find(folder):
            path = run_dir.path.resolve()
            if path in found or path in damaged:
                continue
            try:
                run = Run(run_dir, run_dir.record())
                run.require_whole()
            except UserError as error:
                damaged[path] = DamagedRun(run_dir.path, str(error))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                damaged[path] = DamagedRun(run_dir.path, f"{run_dir.path}: holds no records of this version ({error!r})")
            else:
                found[path] = run
    return list(found.values()), list(damaged.values())
