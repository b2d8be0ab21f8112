"""The evaluation plan: what the runs of each table are sampled and scored by. A small YAML file, read strictly; the bundled one
(`paper.yaml`) gives the paper's tables (Secs. 4.2 to 4.4). No part of it is in a run's hash."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.questions import NAMES
from ablations.registry import GRIDS
from ablations.table1 import SYSTEMS, TABLE1
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.geneval_names import REWRITTEN
from rf_repro.core.strict_yaml import Place, choice, integer, parse_boolean, parse_text, read_strict_yaml
from rf_repro.evaluations.actions import IMAGES, OWN_NUM, OWN_PROMPTS, Drawing, Evaluation, Scoring
from rf_repro.evaluations.scenes import SCENES
from rf_repro.model.spaces import space_of
from rf_repro.worlds import world_of

BUNDLED = Path(__file__).parent / "paper.yaml"
NOTHING = "none"  # --evaluations none: training alone
OTHERS = "others"
PUBLISHED = ("official", "bagel-long", "dpg", "geneval2")
SYSTEM_KEYS = tuple(system.key for system in SYSTEMS)


@dataclass(frozen=True)
class Wanted:
    """One line of a table: a benchmark, and of images which ones."""

    benchmark: str
    prompts: str = ""
    size: int = 256
    num: int = 0
    rewritten: bool = False

    @property
    def published(self) -> str:
        """The published prompt set in whose place these prompts stand."""
        return REWRITTEN if self.rewritten else OWN_PROMPTS[self.benchmark]


@dataclass(frozen=True)
class EvaluationPlan:
    """
    Attributes:
        raw: the plan as JSON, with paths that hold anywhere on this file system: `parse_plan` gives it back.
        settings: benchmark, or `understanding`, -> who looks or answers, and on which data.
        tables: table -> what its runs are scored by; `others` for grids of the user's.
        systems: system -> prompt set -> folder of its images.
    """

    raw: Mapping[str, Any]
    settings: Mapping[str, tuple[tuple[str, Any], ...]]
    seed: int
    tables: Mapping[str, tuple[Wanted, ...]]
    systems: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def evaluations(self, table: str, config: ExperimentConfig) -> tuple[Evaluation, ...]:
        """What a run of a table has to do once it is trained, each after what it needs; nothing in a world that scores itself.

        Args:
            table: the grid's name.
            config: of the run; one that draws no images is asked alone.
        """
        if world_of(config).scores_itself:
            return ()
        draws, largest = space_of(config.model).generates, max(stage.max_image_size for stage in config.stages)
        found: dict[str, Evaluation] = {}
        for one in self.tables.get(table, self.tables[OTHERS]):
            if one.benchmark not in IMAGES:
                found.setdefault(one.benchmark, Scoring(one.benchmark, None, self.settings["understanding"]))
            elif draws:
                scoring = self._of_images(one, min(one.size, largest))
                assert scoring.images is not None
                found.setdefault(scoring.images.name, scoring.images)
                found.setdefault(scoring.name, scoring)
        return tuple(found.values())

    def of_system(self, key: str, table: str, config: ExperimentConfig) -> tuple[Scoring, ...]:
        """What can be scored of another system's images, which are taken to be of the table's size."""
        folders, found = self.systems.get(key, {}), {}
        for one in self.tables.get(table, ()) if table == TABLE1.name else ():
            if one.benchmark in IMAGES and (folder := folders.get(one.published)):
                scoring = self._of_images(one, min(one.size, config.max_image_size), folder)
                found[scoring.name] = scoring
        return tuple(found.values())

    def _of_images(self, one: Wanted, size: int, folder: str | None = None) -> Scoring:
        whose = "geneval" if one.benchmark == "geneval-vlm" else one.benchmark
        drawing = Drawing(whose, one.prompts, size, one.num, self.seed, one.rewritten)
        return Scoring(one.benchmark, drawing, self.settings[one.benchmark], folder)


EMPTY = EvaluationPlan({"tables": NOTHING}, {}, 0, {OTHERS: ()})


def load_plan(name: str | None, tables: Sequence[str] = ()) -> EvaluationPlan:
    """The plan of `--evaluations`.

    Args:
        name: a file; `none`: nothing is evaluated; None: the bundled plan.
        tables: names of grids of the user's, which the file may name beside the paper's.

    Raises:
        UserError: no such file, not YAML, or a key or value that is not allowed.
    """
    if name == NOTHING:
        return EMPTY
    bundled = read_strict_yaml(BUNDLED)
    if name is None:
        return parse_plan(bundled, bundled, Place(str(BUNDLED)), BUNDLED.parent, tables)
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"--evaluations {path}: no such file; `rf-repro sweep evaluations > {path.name}` prints one to edit, and {NOTHING} "
            "means none"
        )
    return parse_plan(read_strict_yaml(path), bundled, Place(str(path)), path.absolute().parent, tables)


def plan_of(raw: Mapping[str, Any]) -> EvaluationPlan:
    """The plan whose `raw` this is."""
    if raw.get("tables") == NOTHING:
        return EMPTY
    return parse_plan(raw, raw, Place("evaluation plan"), None, list(raw["tables"]))


def parse_plan(raw: Any, defaults: Mapping[str, Any], place: Place, folder: Path | None, tables: Sequence[str]) -> EvaluationPlan:
    """A plan from what a file holds.

    Args:
        defaults: the parts that it leaves out.
        folder: where relative paths start; None: they were looked for before, and are taken as they are.

    Raises:
        UserError: one line with the file, the key and what is allowed.
    """
    raw = place.mapping(raw, [*_SETTINGS, "seed", "tables", "systems"])
    whole: dict[str, Any] = {}
    for name, parsers in _SETTINGS.items():
        given = {**defaults[name], **place.at(name).mapping(raw.get(name), list(parsers))}
        whole[name] = {key: _setting(place.at(name).at(key), parsers[key], given[key], folder) for key in parsers}
    whole["seed"] = place.at("seed").parse(integer(0), raw.get("seed", defaults["seed"]))
    lists = {**defaults["tables"], **place.at("tables").mapping(raw.get("tables"), [*GRIDS, OTHERS, *tables])}
    wanted = {name: _wanted(lists[name], place.at("tables").at(name), folder) for name in lists}
    whole["tables"] = {name: [vars(one) if one.num else one.benchmark for one in ones] for name, ones in wanted.items()}
    systems = {**defaults["systems"], **place.at("systems").mapping(raw.get("systems"), SYSTEM_KEYS)}
    whole["systems"] = {key: _folders(systems[key], place.at("systems").at(key), folder) for key in systems}
    settings = {name: tuple(sorted(whole[name].items())) for name in _SETTINGS}
    plan = EvaluationPlan(whole, settings, whole["seed"], wanted, whole["systems"])
    _require_names_apart(plan, place)
    return plan


def _setting(place: Place, parser: Callable[[Any], Any], value: Any, folder: Path | None) -> Any:
    if value is None:
        if parser in (_required_text, _detector, _profile, _protocol):
            raise place.refuse(value, "must not be null; remove the key for the default")
        return None
    parsed = place.parse(parser, value)
    return _located(parsed, folder) if folder is not None and parser in (parse_text, _required_text) else parsed


def _required_text(value: Any) -> str:
    return parse_text(value)


_detector = choice("transformers", "mmdet", SCENES)
_profile = choice("geneval-2023", "unpinned-2025")
_protocol = choice("lmms-eval", "vlmevalkit", "bagel")
_SETTINGS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "geneval": {"detector": _detector, "weights": parse_text, "clip": parse_text, "profile": _profile, "reference": parse_text},
    "dpg": {"judge": _required_text, "python": parse_text},
    "geneval2": {"judge": _required_text},
    "geneval-vlm": {"judge": _required_text},
    "understanding": {"data": _required_text, "protocol": _protocol, "limit": integer(1)},
}


def _located(text: str, folder: Path) -> str:
    """A path that is there, from anywhere; what is none, such as a name on the hub, stays. `mplug:FOLDER` has one at its end."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "mplug":
        return f"{kind}:{_located(rest, folder)}"
    path = folder / text
    return str(path) if path.exists() else text


def _wanted(raw: Any, place: Place, folder: Path | None) -> tuple[Wanted, ...]:
    if not isinstance(raw, list):
        raise place.refuse(raw, "must be a list of benchmarks, such as [mmmu, {benchmark: geneval, size: 256}]")
    return tuple(_one(item, place.at(index), folder) for index, item in enumerate(raw))


def _one(raw: Any, place: Place, folder: Path | None) -> Wanted:
    given = (
        {"benchmark": raw} if isinstance(raw, str) else place.mapping(raw, ["benchmark", "prompts", "size", "num", "rewritten"])
    )
    if "benchmark" not in given:
        raise place.error(f"benchmark is missing; name one of {', '.join((*IMAGES, *NAMES))}")
    benchmark = place.at("benchmark").parse(choice(*IMAGES, *NAMES), given["benchmark"])
    if benchmark in NAMES:
        if extra := [key for key in ("prompts", "size", "num", "rewritten") if given.get(key)]:
            raise place.at(extra[0]).error(f"{benchmark} asks the run itself and draws nothing; remove this key")
        return Wanted(benchmark)
    prompts = given.get("prompts") or OWN_PROMPTS[benchmark]
    prompts = place.at("prompts").parse(parse_text, prompts)
    if prompts not in PUBLISHED and folder is not None:
        path = folder / prompts
        if not path.is_file():
            raise place.at("prompts").refuse(prompts, f"no such file; name one, or {', '.join(PUBLISHED)}")
        prompts = str(path)
    num = place.at("num").parse(integer(1), given.get("num") or OWN_NUM[benchmark])
    if benchmark == "dpg" and num not in (1, 4):
        raise place.at("num").refuse(num, "must be 1 or 4 where the benchmark is dpg")
    size = place.at("size").parse(integer(1), given.get("size") or Wanted.size)
    rewritten = place.at("rewritten").parse(parse_boolean, given.get("rewritten", prompts == REWRITTEN))
    return Wanted(benchmark, prompts, size, num, rewritten)


def _folders(raw: Any, place: Place, folder: Path | None) -> dict[str, str]:
    found = {}
    for prompts, value in place.mapping(raw, PUBLISHED).items():
        path = Path(place.at(prompts).parse(parse_text, value)).expanduser()
        if folder is not None and not (path := folder / path).is_dir():
            raise place.at(prompts).refuse(value, "no such folder of images")
        found[prompts] = str(path)
    return found


def _require_names_apart(plan: EvaluationPlan, place: Place) -> None:
    """Two sets of images of one name would share a folder."""
    known: dict[str, Drawing] = {}
    for table, ones in plan.tables.items():
        for one in (one for one in ones if one.benchmark in IMAGES):
            images = plan._of_images(one, one.size).images
            assert images is not None
            if known.setdefault(images.name, images) != images:
                where = place.at("tables").at(table)
                raise where.error(f"{images.name} means other images than elsewhere (prompts, num); give it another size")
