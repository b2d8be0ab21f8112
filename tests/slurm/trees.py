"""Trees of code that a snapshot can be made of, for tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rf_repro.core.provenance import ROOT
from slurm.snapshot import PACKAGES

STATE = "from rf_repro.core.provenance import code_revision; print(code_revision())"


def git(root: Path, *arguments: str) -> str:
    """Git without the settings of whoever runs the tests."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always")
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def python(code: str, cwd: Path, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def make_tree(root: Path) -> Path:
    """A tree with as much of the real code as a snapshot needs to check itself; no repository yet."""
    for package in PACKAGES:
        (root / package).mkdir(parents=True)
        shutil.copy(ROOT / package / "__init__.py", root / package)
    shutil.copytree(ROOT / "rf_repro" / "core", root / "rf_repro" / "core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "slurm" / "snapshot.py", root / "slurm")
    (root / "pyproject.toml").write_text("[project]\nname = 'tree'\n")
    (root / "slurm" / "run.sh").write_text("#!/bin/sh\n")
    (root / "slurm" / "run.sh").chmod(0o755)
    (root / "reports" / "page").mkdir()
    (root / "reports" / "page" / "logo.bin").write_bytes(bytes(range(256)))
    (root / "reports" / "results").mkdir()
    (root / "reports" / "results" / "run.json").write_text("{}")
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text("")
    (root / ".gitignore").write_text("*.tmp\n__pycache__/\n")
    return root


def make_checkout(root: Path) -> Path:
    """Such a tree, all of it committed."""
    make_tree(root)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root
