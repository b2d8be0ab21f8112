"""Every evaluator's options refuse what their annotations do not allow, when they are made, and the library names no flags."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluators
from evaluators import dpg, geneval, geneval2, geneval_vlm, understanding
from evaluators.understanding.benchmarks import BENCHMARKS
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from tests.evaluators.drawn import PROMPTS, PixelColor, RectangleDetector
from tests.evaluators.scripted import Scripted

BENCHMARK_MODULES = (dpg, geneval, geneval2, geneval_vlm, understanding)
YES = Scripted(lambda parts: "yes", "yes")
ROOT = Path(evaluators.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")


def judged(module: Any) -> Callable[..., object]:
    return lambda **fields: module.Options(**{"model": YES, **fields})


@pytest.mark.parametrize(
    ("make", "fields", "allowed"),
    [
        (geneval.Options, {"device": "foo"}, "auto, cpu, cuda or mps"),
        (geneval.Options, {"profile": "foo"}, "geneval-2023 or unpinned-2025"),
        (geneval.Options, {"detector": "yolo"}, "a Detector, transformers or mmdet"),
        (geneval.Options, {"detector": RectangleDetector}, "a Detector, transformers or mmdet"),
        (geneval.Options, {"classifier": object()}, "a ColorClassifier or None"),
        (geneval.Options, {"batch_size": 1.5}, "an integer or None"),
        (geneval.Options, {"batch_size": "4"}, "an integer or None"),
        (geneval.Options, {"batch_size": True}, "an integer or None"),
        (geneval.Options, {"batch_size": 0}, ">= 1"),
        (geneval.Options, {"images_per_prompt": None}, "an integer"),
        (geneval.Options, {"images_per_prompt": 0}, ">= 1"),
        (geneval.Options, {"partial": "no"}, "True or False"),
        (geneval.Options, {"self_check": 1}, "True or False"),
        (geneval.Options, {"rescore": None}, "True or False"),
        (geneval.Options, {"rules": {}}, "a GenEvalOptions"),
        (geneval.Options, {"prompts": ["a cow"]}, "a path, text, a list, each of it a mapping of text to anything or None"),
        (geneval.Options, {"digests": {0: "abc"}}, "a mapping of (an integer, an integer) to text or None"),
        (geneval.Options, {"digests": {(0, 0): 1}}, "a mapping of (an integer, an integer) to text or None"),
        *((geneval.Options, {name: 3}, "a path, text or None") for name in ("weights", "clip", "reference", "out", "cache")),
        (geneval.GenEvalOptions, {"threshold": "0.3"}, "a number"),
        (geneval.GenEvalOptions, {"threshold": 1.5}, "in [0, 1]"),
        (geneval.GenEvalOptions, {"max_objects": 2.0}, "an integer"),
        (dpg.Options, {"model": None}, "a VisionLanguageModel, a function or text"),
        (judged(dpg), {"pic_num": 3}, "1 or 4"),
        (judged(dpg), {"pic_num": True}, "1 or 4"),
        (judged(dpg), {"compat": "all"}, "official, fixed or both"),
        (judged(dpg), {"resolution": 0}, ">= 1"),
        *((judged(dpg), {name: 3}, "a path, text or None") for name in ("csv", "grids", "reply_cache")),
        (judged(geneval2), {"data": None}, "a path or text"),
        (judged(geneval2), {"partial": 0}, "True or False"),
        (judged(geneval2), {"name": 3}, "text or None"),
        (judged(geneval_vlm), {"images_per_prompt": 0}, ">= 1"),
        (judged(geneval_vlm), {"concurrency": 2.0}, "an integer"),
        (judged(geneval_vlm), {"concurrency": 0}, ">= 1"),
        (understanding.Options, {"model": None}, "a VisionLanguageModel, a function or text"),
        (judged(understanding), {"protocol": "foo"}, "lmms-eval, vlmevalkit or bagel"),
        (judged(understanding), {"limit": 0}, ">= 1"),
        (judged(understanding), {"max_new_tokens": "3"}, "an integer or None"),
        (judged(understanding), {"device": "CPU"}, "auto, cpu, cuda or mps"),
    ],
)  # fmt: skip
def test_options_are_what_their_annotations_say(make: Callable[..., object], fields: dict[str, Any], allowed: str) -> None:
    (name,) = fields
    with pytest.raises(UserError) as refused:
        make(**fields)
    assert re.fullmatch(rf"(geneval option )?{name}=.*: must be {re.escape(allowed)}", str(refused.value))


def test_what_options_allow() -> None:
    geneval.Options(
        detector=RectangleDetector(), classifier=PixelColor(), weights=Path("w"), prompts=PROMPTS, digests={(0, 1): "abc"},
        batch_size=3, out="out", cache=Path("cache"),
        rules=geneval.GenEvalOptions(threshold=1, position_threshold=np.float64(0.1)),
    )  # fmt: skip
    for model in (YES, lambda: YES, "org/model"):
        assert dpg.Options(model=model, pic_num=1, csv="questions.csv").model is model
    protocols = {name for benchmark in BENCHMARKS.values() for name in benchmark.protocols}
    for protocol in protocols:
        judged(understanding)(protocol=protocol)
    assert protocols == {"lmms-eval", "vlmevalkit", "bagel"}


def test_a_long_value_stays_one_short_line() -> None:
    with pytest.raises(UserError) as refused:
        geneval.Options(partial="no\n" * 1000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 300
    assert len(str(refused.value).splitlines()) == 1


def test_what_a_caller_catches_and_types_is_exported() -> None:
    assert (evaluators.UserError, evaluators.EvalResult) == (UserError, EvalResult)
    assert evaluators.__all__ == ["EvalResult", "UserError"]


def test_a_device_that_is_not_here_is_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device=cuda: torch .* finds none here; use device=auto or cpu$"):
        geneval.Options(device="cuda", weights="w").load_models()


def test_evaluators_are_called_alike() -> None:
    for function, positional in (("evaluate", 2), ("evaluate_share", 3)):
        own = [list(inspect.signature(getattr(module, function)).parameters.values())[1:] for module in BENCHMARK_MODULES]
        shapes = [[(parameter.name, parameter.kind) for parameter in one] for one in own]
        assert all(shape == shapes[0] for shape in shapes)
        assert [name for name, kind in shapes[0]] == ["options", *["share"] * (positional - 2), "progress", "tell"]
        keywords = [[(parameter.default, parameter.annotation) for parameter in one[-2:]] for one in own]
        assert all(one == keywords[0] for one in keywords)


def test_the_library_names_no_flags() -> None:
    """Whole commands aside; one module is a command itself, and one text is a record's, which stays as it is."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in texts:
                said = re.sub(r"`rf-repro[^`]*(`|$)", "", node.value)
                found += [f"{path.relative_to(ROOT)}: {said}"] if FLAG.search(said) else []
    assert [text.partition(":")[0] for text in found] == ["detectors/openmmlab.py", "dpg/outcome.py"]
