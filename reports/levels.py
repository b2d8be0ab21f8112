"""Levels of difficulty: runs of the tables' variants in another world, that is with other `data.scenes` and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports.collect import GridRuns, select
from reports.runs import Run
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.config.overrides import config_of
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError


@dataclass(frozen=True)
class Level:
    """One world: what differs from the scale's own, as overrides and in words, and the tables' runs in it."""

    changes: Mapping[str, Any]
    label: str
    tables: tuple[GridRuns, ...]

    @property
    def runs(self) -> list[Run]:
        """Of the tables' rows."""
        return _distinct(table.rows for table in self.tables)

    @property
    def components(self) -> list[Run]:
        """What those started from: first stages, encoders, VAEs of this world."""
        return _distinct(table.shared for table in self.tables)


def find_levels(tables: Sequence[GridRuns], runs: Sequence[Run]) -> list[Level]:
    """The other worlds that any of `runs` was trained in, in order of their description; the scale's own is not among them."""
    hashes = {(table.names[key], config.result_hash()): config for table in tables for key, config in _configs(table).items()}
    own = next(iter(hashes.values())).data.scenes
    worlds: set[ScenesConfig] = set()
    for run in runs:
        if run.record.scale != tables[0].scale or (run.record.variant, run.record.config_hash) in hashes:
            continue
        found = (_world(run, config) for (name, _), config in hashes.items() if name == run.record.variant)
        worlds |= {scenes for scenes in found if scenes is not None}
    levels = [_level(tables, runs, own, scenes) for scenes in worlds]
    return sorted(levels, key=lambda level: level.label)


def _level(tables: Sequence[GridRuns], runs: Sequence[Run], own: ScenesConfig, scenes: ScenesConfig) -> Level:
    before = vars(own)
    changed = {name: value for name, value in vars(scenes).items() if value != before[name]}
    changes = {f"data.scenes.{name}": value for name, value in changed.items()}
    chosen = []
    for table in tables:
        everything = {**table.changes, **changes}
        try:
            chosen.append(replace(select(table.grid, table.scale, runs, everything), left_out=()))
        except UserError:  # a row that cannot be in this world: none of the table's runs is
            continue
    return Level(changes, _describe(changed), tuple(chosen))


def _distinct(rows: Iterable[Mapping[str, Mapping[int, Run]]]) -> list[Run]:
    return list({run.dir.path: run for row in rows for seeds in row.values() for run in seeds.values()}.values())


def _configs(table: GridRuns) -> dict[str, ExperimentConfig]:
    return table.grid.configs(table.scale, table.changes)


def _world(run: Run, config: ExperimentConfig) -> ScenesConfig | None:
    """The run's world when everything else that affects its result is as in `config`."""
    try:
        scenes = config_of(run.dir).data.scenes
        same = replace(config, data=replace(config.data, scenes=scenes)).result_hash() == run.record.config_hash
    except UserError:  # a config of another version, or a world that this variant cannot have: not one of its levels
        return None
    return scenes if same else None


def _describe(changed: Mapping[str, object]) -> str:
    """What differs, e.g. `rotation 0.5, shapes circle square star`."""
    texts = {name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in changed.items()}
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())
