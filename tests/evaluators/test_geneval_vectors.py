"""Every official verdict of the test-vector file, reproduced: 4 made-up images for each of GenEval's 553 prompts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.geneval_vectors_adapter import candidate

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DATA = SHARED / "geneval"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the official test vectors are not beside the repository")


@pytest.fixture(scope="module")
def vectors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("geneval_vectors", SHARED / "evaluators" / "geneval_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs(vectors: ModuleType) -> list[Any]:
    offline = vectors.Offline(DATA / "evaluation_metadata.jsonl", DATA / "object_names.txt")
    return list(vectors.load_cases(DATA / "expected.jsonl.gz", offline))


def test_no_difference_from_the_official_script(vectors: ModuleType, pairs: list[Any]) -> None:
    num, differences, by_tag = vectors.diff(candidate, pairs, check_reason=True)
    assert num == 2212
    assert (differences, by_tag) == (dict.fromkeys(("correct", "details", "crops", "reason", "error"), 0), {})
