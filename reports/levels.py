"""Levels of difficulty: runs of the tables' variants in another world, that is with other `data.scenes` and nothing else."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from reports.collect import GridRuns, Run
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.config.overrides import config_of
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError


@dataclass(frozen=True)
class Level:
    """One world, what differs from the scale's own in words, and the tables' runs in it."""

    scenes: ScenesConfig
    label: str
    tables: tuple[GridRuns, ...]

    @property
    def runs(self) -> list[Run]:
        found = {run.name: run for table in self.tables for seeds in table.rows.values() for run in seeds.values()}
        return list(found.values())


def find_levels(tables: Sequence[GridRuns], runs: Sequence[Run]) -> list[Level]:
    """The other worlds that any of `runs` was trained in, in order of their description; the scale's own is not among them."""
    by_world: dict[ScenesConfig, dict[tuple[str, str], dict[int, Run]]] = {}
    hashes = {(table.names[key], config.result_hash()): config for table in tables for key, config in _configs(table).items()}
    for run in runs:
        if run.record.scale != tables[0].scale or (run.record.variant, run.record.config_hash) in hashes:
            continue
        for (name, digest), config in hashes.items():
            if name == run.record.variant and (scenes := _world(run, config)) is not None:
                by_world.setdefault(scenes, {}).setdefault((name, digest), {}).setdefault(run.record.seed, run)
    levels = []
    for scenes, found in by_world.items():
        chosen = tuple(
            replace(
                table,
                rows={key: dict(sorted(found.get((table.names[key], config.result_hash()), {}).items()))
                      for key, config in _configs(table).items()},
                left_out=(),
            )
            for table in tables
        )  # fmt: skip
        levels.append(Level(scenes, _describe(next(iter(hashes.values())).data.scenes, scenes), chosen))
    return sorted(levels, key=lambda level: level.label)


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


def _describe(own: ScenesConfig, other: ScenesConfig) -> str:
    """What differs, e.g. `rotation 0.5, shapes circle square star`."""
    before, after = asdict(own), asdict(other)
    changed = {name: value for name, value in after.items() if value != before[name]}
    texts = {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for name, value in changed.items()
    }
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())
