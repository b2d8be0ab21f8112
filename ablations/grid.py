"""A table of the paper as data: its rows are variants, each a small diff over one scale's config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ablations.checks import check_fields, check_word, explain, refuse, repeated
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import Prerequisite, prerequisites
from rf_repro.config.scales import SCALES, get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.annotations import is_of
from rf_repro.core.errors import UserError
from rf_repro.worlds import named_world

CLUSTERS = ("prompt", "question_id", "cluster")
GENEVAL_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row: a key (the run directory's name), the label that tables print, and its difference from a scale's config.

    `overrides` are dotted paths and values. Where a value follows from the scale ("twice the codebook"), they are a function
    of the scale's config, so that one row means the same at every scale. `twin` is another row that may come out the same at
    a scale: then the two are one run, that of the twin.
    """

    key: str
    label: str
    overrides: Overrides | Callable[[ExperimentConfig], Overrides]
    twin: "Variant | None" = None

    def __post_init__(self) -> None:
        check_fields(self._who, self, filled=("label",))
        check_word(self._who, "key", self.key)

    @property
    def _who(self) -> str:
        return f"variant {self.key!r}"

    def difference(self, base: ExperimentConfig) -> Overrides:
        """Dotted path -> value, over this base. Raises UserError where a function of the base has none to give."""
        if not callable(self.overrides):
            return self.overrides
        try:
            found = self.overrides(base)
        except (Exception, SystemExit) as error:
            file = getattr(getattr(self.overrides, "__code__", None), "co_filename", "")
            raise UserError(f"{self._who}: overrides{explain(error, file)}") from error
        if not is_of(found, Overrides):
            refuse(self._who, "overrides(base)", found, "a mapping of dotted paths to values")
        return found

    def config(self, base: ExperimentConfig) -> ExperimentConfig:
        """The base with this variant's overrides. Raises UserError on a bad path, a bad value or a no-op."""
        difference = self.difference(base)
        try:
            return apply_overrides(base, difference)
        except UserError as error:
            raise UserError(f"{self._who}: {error}") from None

    def run_key(self, base: ExperimentConfig) -> str:
        """The key of the row whose run this is: its own, or its twin's where nothing that affects results tells them apart."""
        if self.twin is None or self.twin.config(base).result_hash() != self.config(base).result_hash():
            return self.key
        return self.twin.key

    def labelled(self, label: str) -> "Variant":
        """The same row under the name that another table gives it: same key, hence the same run."""
        return replace(self, label=label)


@dataclass(frozen=True)
class Column:
    """One measured column: `metric` of the evaluation record `evals/<evaluation>.json`.

    `metric` is the unweighted mean over `tasks` of each task's share of correct items (GenEval's own definition). `cluster`
    is the field of an item that a bootstrap draws by: items that share its value are alike and come or go together.
    """

    key: str
    label: str
    evaluation: str
    metric: str
    tasks: tuple[str, ...]
    cluster: str

    def __post_init__(self) -> None:
        owner = f"column {self.key!r}"
        check_fields(owner, self, filled=("key", "label", "evaluation", "metric", "tasks"))
        if self.cluster not in CLUSTERS:
            refuse(owner, "cluster", self.cluster, f"one of {', '.join(CLUSTERS)}")


GENEVAL = Column("geneval", "GenEval", "geneval", "overall", GENEVAL_TASKS, cluster="prompt")


@dataclass(frozen=True)
class AblationGrid:
    """A table: `name` is its command-line name, `title` the paper's, `base` the row that the others are diffs of.

    `columns` are those of worlds that score a run themselves; `real_columns` those on photographs, where they are others: the
    same number, in the same order.

    `last_stage` is the stage after which its runs end; None: the scale's last. A scale that has no stage of that name keeps all
    of its own. Paper: Tables 3a to 3d are scored at 256 px, which is the resolution of `joint`, Table 1 alone at 1,024 px; for
    Tables 2 and 3e it does not say, and ending with `joint` is assumed, so that their rows are the same runs.
    """

    name: str
    title: str
    caption: str
    section: str
    base: str
    rows: tuple[Variant, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    real_columns: tuple[Column, ...] = ()
    last_stage: str | None = "joint"

    def __post_init__(self) -> None:
        owner = self.name if self.name and isinstance(self.name, str) else "grid"
        check_fields(owner, self, filled=("title", "caption", "rows", "columns", "seeds"))
        check_word("grid", "name", self.name)
        for what, things in (("rows", self.rows), ("columns", self.columns), ("real_columns", self.real_columns)):
            keys = [one.key.lower() for one in things]  # names of folders, and some disks do not tell case apart
            for field, values in (("key", keys), ("label", [one.label for one in things])):
                if twice := repeated(values):
                    raise UserError(f"{owner}: {what} have the {field} {twice[0]!r} twice; give each one of its own")
        if min(self.seeds) < 0 or repeated(self.seeds):
            refuse(owner, "seeds", self.seeds, "different and >= 0")
        keys = [row.key for row in self.rows]
        if self.base not in keys:
            raise UserError(f"{self.name}: base={self.base!r}: must be the key of a row: {', '.join(keys)}")
        if len(self.real_columns) not in (0, len(self.columns)):
            raise UserError(f"{self.name}: real_columns: must be {len(self.columns)}, as columns are, or none")

    def in_world(self, world: str) -> "AblationGrid":
        """The table with the columns that are measured in a world, a value of `data.world`."""
        return replace(self, columns=self.real_columns) if self.real_columns and not named_world(world).scores_itself else self

    def variant(self, key: str) -> Variant:
        """The row of that key. Raises UserError when the table has none."""
        for row in self.rows:
            if row.key == key:
                return row
        raise UserError(f"variant {key!r}: not in {self.name}; choose one of {', '.join(row.key for row in self.rows)}")

    def config(self, row: Variant, base: ExperimentConfig) -> ExperimentConfig:
        """What the row's run is trained with: the base up to `last_stage`, with the row's overrides. Raises UserError as of
        `Variant.config` and `schedule`."""
        return row.config(self.schedule(base))

    def schedule(self, base: ExperimentConfig) -> ExperimentConfig:
        """The base up to `last_stage`. Raises UserError where that is the name of no stage at any scale."""
        own = [stage.name for stage in base.stages if not stage.shared]
        if self.last_stage in own[:-1]:
            count = [stage.name for stage in base.stages].index(self.last_stage) + 1
            return replace(base, stages=base.stages[:count])
        known = [*own, *(stage.name for make in SCALES.values() for stage in make().stages if not stage.shared)]
        if self.last_stage not in (None, *known):
            allowed = f"one of {', '.join(dict.fromkeys(known))}, or None for all stages"
            refuse(f"grid {self.name!r}", "last_stage", self.last_stage, allowed)
        return base

    def configs(self, scale: str, changes: Overrides | None = None) -> dict[str, ExperimentConfig]:
        """Row key -> config at a scale, in row order; `changes` to the scale come before every row. Raises UserError on an
        unknown scale or a bad change."""
        base = apply_overrides(get_scale(scale), changes or {})
        return {row.key: self.config(row, base) for row in self.rows}

    def shared(self, scale: str, changes: Overrides | None = None) -> dict[tuple[str, str], Prerequisite]:
        """(run name, config hash) -> every run that the rows start from, in training order."""
        runs = (run for key, config in self.configs(scale, changes).items() for run in prerequisites(config, key))
        return {(run.name, run.config.result_hash()): run for run in runs}


def config_difference(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (value in base, value in other) wherever two JSON-ready configs differ; a side without it has None."""
    left, right = _flatten(base), _flatten(other)
    paths = [*left, *(path for path in right if path not in left)]
    return {path: (left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)}


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # stages: named, not numbered
        value = {item["name"]: item for item in value}
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{path}.{key}" if path else str(key))
    return flat
