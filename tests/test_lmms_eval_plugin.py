"""The plugin in the real lmms-eval: a task of its own kind, on a local file, answered by a run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators.vlm.protocol import Parts
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.experiment.vlm import load_rf_vlm
from rf_repro.sample.vlm import RFVisionLanguageModel
from tests.tiny_run import tiny_changes, write_run

TASK = """
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: "{data}"}}
task: tiny
test_split: test
output_type: generate_until
doc_to_visual: !function {utils}.to_visual
doc_to_text: !function {utils}.to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
UTILS = """
def to_visual(doc):
    return [doc["image"].convert("RGB")]


def to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""
QUESTIONS = ("what is in the image?", "how many shapes are there?", "<image>is it above?")


def test_nothing_is_imported_before_the_class_is_asked_for() -> None:
    code = (
        "import sys, rf_repro.lmms_eval_plugin as plugin\n"
        "assert not {'torch', 'lmms_eval'} & set(sys.modules)\n"
        "try: plugin.Other\n"
        "except AttributeError: print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    pytest.importorskip("lmms_eval", reason="the extra `lmms` is not installed")
    folder = tmp_path_factory.mktemp("lmms")
    torch.manual_seed(0)
    return write_run(folder / "runs", "pixel_rf-continued", tiny_changes(folder / "tokenizer"), seed=3)


@pytest.fixture(scope="module")
def vlm(run: RunDir) -> RFVisionLanguageModel:
    return load_rf_vlm(run, torch.device("cpu"))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def test_the_harness_runs_a_task_with_a_run(
    run: RunDir, vlm: RFVisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from lmms_eval import evaluator
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from rf_repro.lmms_eval_plugin import manifest

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    questions = [QUESTIONS[i % 3] for i in range(7)]
    asked: list[Parts] = [(picture(i), text.replace("<image>", "")) for i, text in enumerate(questions)]
    answers = vlm.answer(asked, 4)
    expected = [answer if i != 2 else "something else" for i, answer in enumerate(answers)]
    rows = {"image": [picture(i) for i in range(7)], "question": questions, "answer": expected}
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    (tmp_path / "utils.py").write_text(UTILS)
    (tmp_path / "tiny.yaml").write_text(TASK.format(data=tmp_path / "data.parquet", utils="utils"))
    results = evaluator.simple_evaluate(
        model="rf_repro", model_args=f"run={run.path}", tasks=["tiny"], batch_size=3, device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False), log_samples=True,
    )  # fmt: skip
    samples = sorted(results["samples"]["tiny"], key=lambda sample: sample["doc_id"])
    assert [
        sample["resps"][0][0] if isinstance(sample["resps"][0], list) else sample["resps"][0] for sample in samples
    ] == answers
    assert results["results"]["tiny"]["exact_match,none"] == pytest.approx(6 / 7)


def model_of(run: RunDir, docs: list[dict[str, Any]], **options: Any) -> Any:
    from rf_repro.lmms_eval_plugin import RFRun  # type: ignore[attr-defined]

    model = RFRun(run=str(run.path), device="cpu", **options)
    model.task_dict = {"tiny": {"test": docs}}
    return model


def request(kind: str, *arguments: Any) -> Any:
    from lmms_eval.api.instance import Instance

    return Instance(kind, arguments, 0, {"task": "tiny", "doc_id": 0, "repeats": 1})


def test_answers_are_cut_at_a_tasks_ends(run: RunDir, vlm: RFVisionLanguageModel) -> None:
    docs = [{"image": picture(i)} for i in range(3)]
    model = model_of(run, docs, batch_size="2")
    plain = vlm.answer([(doc["image"], "what is in the image?") for doc in docs], 6)
    end = plain[1][1:3]
    assert end

    def visual(doc: dict[str, Any]) -> list[Image.Image]:
        return [doc["image"]]

    def ask(**settings: Any) -> list[str]:
        return model.generate_until(
            [request("generate_until", "what is in the image?", settings, visual, i, "tiny", "test") for i in range(3)]
        )

    assert ask(max_new_tokens=6) == plain
    assert ask(max_new_tokens=6, until=[end, ""])[1] == plain[1].split(end)[0]
    for sampled in ({"do_sample": True}, {"temperature": 0.7}, {"num_beams": 5}):
        with pytest.raises(UserError, match="answers are greedy; add --gen_kwargs"):
            ask(**sampled)
    with pytest.raises(UserError, match="has a str as visual; runs see images alone"):
        model.generate_until([request("generate_until", "what?", {}, lambda doc: ["film.mp4"], 0, "tiny", "test")])
    with pytest.raises(UserError, match="one question at a time"):
        model.generate_until_multi_round([])


def test_the_smallest_loss_is_the_likeliest_continuation(run: RunDir, vlm: RFVisionLanguageModel) -> None:
    docs = [{"image": picture(0), "answer": "a circle"}]
    model = model_of(run, docs)
    where = (lambda doc: [doc["image"]], 0, "tiny", "test")
    found = model.loglikelihood(
        [
            request("loglikelihood", "what?", " red", *where),
            request("loglikelihood", "what?", lambda doc: doc["answer"], *where),
            request("loglikelihood", "", "red"),
        ]
    )
    parts: list[Parts] = [(docs[0]["image"], "what?"), (docs[0]["image"], "what?"), ("",)]
    assert found == [vlm.continuation_loss(own, text) for own, text in zip(parts, ("red", "a circle", "red"), strict=True)]
    greedy = vlm.answer(parts[:1], 1)[0]
    loss, is_greedy = model.loglikelihood([request("loglikelihood", "what?", greedy, *where)])[0]
    assert is_greedy
    assert loss < found[0][0]


@pytest.mark.parametrize("batch_size", [0, "auto", "1.5"])
def test_options_are_checked(run: RunDir, batch_size: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size=.*: must be a whole number >= 1"):
        model_of(run, [], batch_size=batch_size)
    with pytest.raises(UserError, match="is not a run directory"):
        model_of(RunDir(tmp_path), [])
