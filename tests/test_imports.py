"""One order of all packages, each importing only what is below it; and what needs no torch does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; docs/architecture.md says what is on each floor. Packages on one floor do not know each other.
FLOORS = (
    ("rf_repro.core",),
    ("evaluators",),  # a library for anyone's model: of ours it has records, hashing, files and errors alone
    ("rf_repro.config",),
    ("rf_repro.maths",),
    ("rf_repro.compute",),
    ("rf_repro.data",),
    ("rf_repro.representation",),
    ("rf_repro.model",),
    ("rf_repro.train",),
    ("rf_repro.sample",),
    ("rf_repro.worlds",),
    ("ablations",),
    ("rf_repro.experiment",),
    ("rf_repro.estimate",),
    ("reports",),
    ("rf_repro.evaluations",),
    ("rf_repro.launch",),
    ("slurm",),
    ("rf_repro.commands",),
    ("rf_repro.cli", "rf_repro.lmms_eval_plugin"),
)
FLOOR_OF = {package: number for number, floor in enumerate(FLOORS) for package in floor}
PACKAGES = ("rf_repro", "ablations", "evaluators", "slurm", "reports")
OURS = (*PACKAGES, "tests", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str | None:
    """The package in the order that a module, or a name in one, belongs to."""
    return next((package for package in FLOOR_OF if module == package or module.startswith(package + ".")), None)


def imports(path: Path) -> list[str]:
    """Our modules that a file imports anywhere; `from a import b` counts as a.b, which is a module or a name in one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] in OURS]


def violations(module: str, imported: list[str]) -> list[str]:
    """What a module imports that is neither in its own package nor on a floor below."""
    own = package_of(module)
    if own is None:  # rf_repro/__init__.py
        return imported
    found = [(name, package_of(name)) for name in imported if name != "rf_repro"]  # which all of it is in
    return [name for name, other in found if other != own and (other is None or FLOOR_OF[other] >= FLOOR_OF[own])]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_package_imports_only_what_is_below_it(path: Path) -> None:
    bad = violations(module_name(path), imports(path))
    assert not bad, f"{module_name(path)} may not import {', '.join(bad)}"


def test_every_package_has_a_floor() -> None:
    assert not [name for name in map(module_name, FILES) if package_of(name) is None and name != "rf_repro"]
    named = {package_of(module_name(path)) for path in FILES} - {None}
    assert named == set(FLOOR_OF)


def test_the_rules_catch_what_they_forbid() -> None:
    assert violations("rf_repro.core.files", ["rf_repro.config.data_schema.ScenesConfig"])
    assert violations("evaluators.geneval.scoring", ["rf_repro.config.schema.ExperimentConfig"])
    assert violations("rf_repro.model.rf_model", ["rf_repro.train.optim"])
    assert violations("rf_repro.representation.vq", ["rf_repro.model.rf_model"])
    assert violations("ablations.grid", ["reports.build"])
    assert violations("rf_repro.estimate.plan", ["reports.build"])
    assert violations("rf_repro.launch.local", ["slurm.jobs"])
    assert violations("rf_repro", ["rf_repro.core.files"])
    assert not violations("rf_repro.commands.plan", ["rf_repro.launch.progress.read_progress"])
    assert not violations("rf_repro.train.trainer", ["rf_repro.train.loop", "rf_repro.model.rf_model"])


# Worlds and kinds are asked, never told apart, outside the rooms that define them. To tell them apart takes a name or a class of
# theirs: each such place is listed, with what it is for.

WORLD_ROOMS = ("rf_repro/worlds/", "rf_repro/data/")
WORLDS_NAMED = {
    "rf_repro/config/data_schema.py": {"scenes", "image_text"},  # the default; and what `dedup` looks at
    "rf_repro/config/scales.py": {"image_text"},  # the world of `base` and `paper`
    "rf_repro/commands/evaluate.py": {"scenes"},  # --detector scenes, the exact detector of drawn images
    "rf_repro/evaluations/scenes.py": {  # the same in an evaluation plan
        "scenes", "rf_repro.worlds.scenes.colors.SceneColorClassifier", "rf_repro.worlds.scenes.detector.SceneDetector",
    },
    "rf_repro/commands/data.py": {  # `data scenes` writes scenes as shards
        "scenes", "rf_repro.data.scenes_shards.ScenesExport", "rf_repro.data.scenes_shards.export_scenes",
    },
    "rf_repro/commands/data_inspect.py": {  # `data inspect` shows packs of shards
        "rf_repro.data.image_text.ImageTextData", "rf_repro.data.text_tokenizer.ImageTextTokenizer",
    },
}  # fmt: skip
KIND_ROOMS = ("rf_repro/representation/", "rf_repro/model/encoders/", "rf_repro/model/spaces/")
KINDS_NAMED = {
    "ablations/variants.py": {"discrete", "continuous", "repa", "siglip2"},  # the paper's rows
    "rf_repro/config/model_schema.py": {"vit"},  # the default
    "rf_repro/config/scales.py": {"dinov3"},  # the encoder of `base` and `paper`
    "ablations/claims.py": {"continuous", "repa"},  # keys of those rows
    "reports/paper_values/tables.py": {"continuous", "repa"},
    "rf_repro/model/dinov3.py": {  # the modules of that kind alone
        "dinov3", "rf_repro.model.encoders.dinov3.GATED", "rf_repro.model.encoders.dinov3.REGISTERS",
    },
    "rf_repro/model/siglip2.py": {"siglip2", "rf_repro.model.encoders.siglip2.POSITIONS"},
}  # fmt: skip
WORLD_NAMES = {"scenes", "image_text"}
WORLD_MODULES = ("rf_repro.worlds.scenes", "rf_repro.worlds.image_text", "rf_repro.data.scenes", "rf_repro.data.scenes_shards",
                 "rf_repro.data.image_text", "rf_repro.data.text_tokenizer")  # fmt: skip
KIND_NAMES = {"discrete", "continuous", "repa", "vit", "dinov3", "siglip2"}
KIND_MODULES = ("rf_repro.representation.discrete", "rf_repro.representation.continuous", "rf_repro.model.encoders.vit",
                "rf_repro.model.encoders.dinov3", "rf_repro.model.encoders.siglip2", "rf_repro.model.spaces.pixel",
                "rf_repro.model.spaces.vae", "rf_repro.model.spaces.none")  # fmt: skip


def named(path: Path, names: set[str], modules: tuple[str, ...]) -> set[str]:
    """What a file says of some things: texts that are a name of theirs, wherever they stand, and imports from their modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    imported = {name for name in imports(path) if any(name == module or name.startswith(module + ".") for module in modules)}
    return (texts & names) | imported


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_can_ask_which_world_or_kind_it_is(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    if not where.startswith(WORLD_ROOMS):
        assert named(path, WORLD_NAMES, WORLD_MODULES) <= WORLDS_NAMED.get(where, set())
    if not where.startswith(KIND_ROOMS):
        assert named(path, KIND_NAMES, KIND_MODULES) <= KINDS_NAMED.get(where, set())


@pytest.mark.parametrize(
    "source",
    ['x == "scenes"', 'x not in ("scenes", "other")', 'match x:\n    case "scenes":\n        pass', '{"scenes": 1}.get(x)',
     'NAME = "scenes"\nx == NAME', 'x.startswith("scenes")', 'x in frozenset(("scenes",))', 'hasattr(x, "scenes")',
     "from rf_repro.data.scenes.mixture import SceneMixture\ntype(x) is SceneMixture",
     "import rf_repro.worlds.scenes\nissubclass(x, rf_repro.worlds.scenes.Scenes)"],
)  # fmt: skip
def test_the_search_finds_each_way_to_ask(source: str, tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(source, encoding="utf-8")
    assert named(tmp_path / "asks.py", WORLD_NAMES, WORLD_MODULES)
    assert not named(tmp_path / "asks.py", KIND_NAMES, KIND_MODULES)


WITHOUT_TORCH = (
    "rf_repro.core", "rf_repro.config", "rf_repro.cli", "rf_repro.launch", "ablations", "reports", "slurm",
    "rf_repro.worlds", "rf_repro.worlds.scenes", "rf_repro.worlds.image_text", "rf_repro.representation.kinds",
    "rf_repro.model.spaces", "rf_repro.model.encoders",
)  # fmt: skip
WITH_CHILDREN = ("rf_repro.worlds", "rf_repro.worlds.scenes", "rf_repro.worlds.image_text")  # of which the package itself alone


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_no_torch(package: str) -> None:
    modules = [name for path in FILES if (name := module_name(path)) == package or name.startswith(package + ".")]
    modules = [package] if package in WITH_CHILDREN else modules
    assert modules
    code = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
