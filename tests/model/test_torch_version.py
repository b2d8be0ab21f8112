"""What an older torch serves: scoring, all of it; models are refused in one line."""

import subprocess
import sys
from pathlib import Path

import torch

import rf_repro.maths

ROOT = Path(__file__).resolve().parents[2]
OLDER = "import sys, torch; torch.__version__ = torch.torch_version.TorchVersion('2.6.0+cu124'); "


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_models_are_refused_in_one_line() -> None:
    done = run(OLDER + "import rf_repro.model.rf_model")
    assert done.returncode
    last = done.stderr.splitlines()[-1]
    assert "UserError: torch=2.6.0+cu124: must be >= 2.13 for models, their training and samples; " in last
    assert "pip install --upgrade 'torch>=2.13'" in last


def test_scoring_needs_no_model() -> None:
    """All of `evaluators`, what scores drawn scenes, and the commands, which is all that an older torch must be able to load."""
    code = (
        OLDER + "import importlib, pkgutil, evaluators, rf_repro.commands\n"
        "for package in (evaluators, rf_repro.commands):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "from rf_repro.worlds.scenes import colors, detector\n"
        "assert 'rf_repro.maths' not in sys.modules"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_version_here_is_enough() -> None:
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= rf_repro.maths.OLDEST_TORCH
