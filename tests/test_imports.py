"""Dependencies run one way, and what needs no torch does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("rf_repro", "ablations", "evaluators", "slurm", "reports", "tests", "benchmarks")
# Package -> what of ours it may import, at any depth of its code. The longest matching package decides.
ALLOWED = {
    "rf_repro.core": ("rf_repro.core",),
    "rf_repro.config": ("rf_repro.core", "rf_repro.config"),
    "rf_repro.data": ("rf_repro.core", "rf_repro.config", "rf_repro.data", "evaluators"),
    "rf_repro.cli": ("rf_repro", "ablations", "evaluators", "reports", "slurm"),
    "rf_repro.commands": ("rf_repro", "ablations", "evaluators", "reports", "slurm"),
    "rf_repro": ("rf_repro", "ablations", "evaluators"),
    "evaluators": ("rf_repro.core", "rf_repro.config", "rf_repro.data", "evaluators"),
    "ablations": ("rf_repro.core", "rf_repro.config", "ablations"),
    "reports": ("rf_repro.core", "rf_repro.config", "ablations", "reports"),
    "slurm": ("rf_repro", "ablations", "evaluators", "reports", "slurm"),
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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
    package = max((package for package in ALLOWED if within(module, package)), key=len)
    return [name for name in imported if not any(within(name, allowed) for allowed in ALLOWED[package])]


PACKAGES = ("rf_repro", "ablations", "evaluators", "slurm", "reports")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_dependencies_run_one_way(path: Path) -> None:
    bad = violations(module_name(path), imports(path))
    assert not bad, f"{module_name(path)} may not import {', '.join(bad)}"


def test_the_rules_catch_what_they_forbid() -> None:
    assert violations("rf_repro.core.files", ["rf_repro.config.data_schema.ScenesConfig"])
    assert violations("evaluators.geneval.scoring", ["rf_repro.model.rf_model.RFModel"])
    assert violations("ablations.grid", ["reports.build"])
    assert violations("reports.build", ["rf_repro.launch.plan.Plan"])
    assert violations("rf_repro.train.trainer", ["slurm.jobs"])
    assert not violations("rf_repro.commands.plan", ["rf_repro.launch.progress.read_progress"])


@pytest.mark.parametrize("package", ["rf_repro.core", "rf_repro.config", "ablations", "reports", "rf_repro.cli", "slurm"])
def test_no_torch(package: str) -> None:
    modules = [name for path in FILES if within(name := module_name(path), package)]
    assert modules
    code = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
