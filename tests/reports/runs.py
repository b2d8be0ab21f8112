"""Run directories for tests, written through the real classes; only the verdicts and pictures are invented."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablations.grid import GENEVAL_TASKS
from ablations.questions import QUESTIONS
from ablations.registry import ABLATIONS, GRIDS
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.records import Attempt, EvalResult
from rf_repro.core.run_dir import RunDir

PROTOCOL = "geneval-00000000"
Verdict = Callable[[str, int, int], bool | None]  # (task, prompt index within the task, sample) -> correct


def make_items(
    verdict: Verdict, prompts: int = 4, samples: int = 2, text: str = "a photo of {task} {index}"
) -> list[dict[str, Any]]:
    """Items of six tasks with `prompts` prompts each."""
    rows = []
    for task_index, task in enumerate(GENEVAL_TASKS):
        for index in range(prompts):
            for sample in range(samples):
                correct = verdict(task, index, sample)
                rows.append(
                    {
                        "prompt_id": task_index * prompts + index,
                        "sample": sample,
                        "seed": index,
                        "tag": task,
                        "prompt": text.format(task=task, index=index),
                        "correct": correct,
                        "reason": "" if correct else "expected circle>=1, found 0",
                        "failure": None if correct else "missing_object" if correct is False else "unreadable",
                        "held_out": False,
                        "details": {"circle": [[1, 2, 3, 4, 0.9]]},
                    }
                )
    return rows


def make_result(items: Sequence[Mapping[str, Any]], /, protocol: str = PROTOCOL, **changes: Any) -> EvalResult:
    """The record that sums up the items, by its own arithmetic."""
    metrics: dict[str, float | None] = {}
    for task in GENEVAL_TASKS:
        verdicts = [row["correct"] for row in items if row["tag"] == task and row["correct"] is not None]
        metrics[task] = sum(verdicts) / len(verdicts)
    metrics["overall"] = sum(metrics[task] or 0.0 for task in GENEVAL_TASKS) / len(GENEVAL_TASKS)
    scored = sum(row["correct"] is not None for row in items)
    result = EvalResult(
        "geneval", protocol, metrics, n=scored, expected_n=len(items), failures=len(items) - scored,
        evaluator={"detector": "scenes", "detector_revision": "1"}, items="geneval.items.jsonl",
    )  # fmt: skip
    return replace(result, **changes)


def write_run(root: Path, variant: str, seed: int, scale: str = "smoke", change: Mapping[str, Any] | None = None) -> RunDir:
    """A finished run of a table's variant, or of the shared stage `stage-pretrain`, with a config of that scale."""
    from rf_repro.config.overrides import apply_overrides

    grid = next((grid for grid in ABLATIONS if variant in {row.key for row in grid.rows}), GRIDS["table3a"])
    if variant.startswith("stage-"):
        config = next(run.config for (name, _), run in grid.shared(scale, change).items() if name == variant)
    else:
        config = apply_overrides(grid.configs(scale)[variant], change or {})
    digest = config.result_hash()
    run = RunDir.create(root, config.to_dict(), digest, scale, variant, seed)
    attempt = Attempt("2026-01-01T00:00:00+00:00", "host", 1, "cpu", 1, seconds=12.0)
    run.write_record(
        replace(
            run.record(), status="done", revision="0" * 40, versions={"numpy": "2"}, steps=30, tokens=3000, attempts=[attempt],
            compute_seconds=4.0 if variant == "pixel_rf" else 3.0, started_from=["stage-pretrain/abc-s0"],
        )
    )  # fmt: skip
    return run


def write_geneval(run: RunDir, items: list[dict[str, Any]], **changes: Any) -> None:
    write_jsonl(run.evals / "geneval.items.jsonl", items)
    run.write_eval("geneval", make_result(items, **changes))


def write_metrics(run: RunDir, steps: Sequence[int], seconds_a_step: float, codebook: bool) -> None:
    for step in steps:
        row = {"step": step, "loss": 2 / step, "loss/text": 1 / step, "loss/flow": 1 / step, "tokens": 100 * step}
        if codebook:
            row |= {"loss/representation": 3 / step, "codebook/usage": 0.9, "codebook/perplexity": 20.0}
        append_jsonl(run.metrics_path, {**row, "compute_seconds": step * seconds_a_step})


def write_curve(run: RunDir, scores: Mapping[int, float]) -> None:
    for step, score in scores.items():
        metrics: dict[str, float | None] = {**dict.fromkeys(GENEVAL_TASKS, score), "overall": score}
        run.write_eval(f"geneval-step{step:06d}", EvalResult("geneval", "geneval-curve", metrics, 12, 12, step=step))


def write_curve_items(run: RunDir, step: int, items: list[dict[str, Any]]) -> None:
    """A point of the learning curve with the outcomes that it rests on."""
    name = f"geneval-step{step:06d}"
    write_jsonl(run.evals / f"{name}.items.jsonl", items)
    run.write_eval(name, make_result(items, protocol="geneval-curve", step=step, items=f"{name}.items.jsonl"))


def write_questions(
    run: RunDir, correct: Callable[[str, int], bool], per_type: int = 10, chance: float = 0.25, name: str = "questions",
    step: int | None = None,
) -> None:  # fmt: skip
    """Answers to `per_type` questions of each type; `correct` by type and index within it."""
    rows = [
        {"tag": kind, "prompt": f"what {kind}?", "question_id": number * per_type + index, "expected": "yes",
         "answer": "yes" if correct(kind, index) else "no", "correct": correct(kind, index), "held_out": False}
        for number, kind in enumerate(QUESTIONS)
        for index in range(per_type)
    ]  # fmt: skip
    metrics: dict[str, float | None] = {
        kind: sum(row["correct"] for row in rows if row["tag"] == kind) / per_type for kind in QUESTIONS
    }
    write_jsonl(run.evals / f"{name}.items.jsonl", rows)
    stated = metrics | {f"chance_{kind}": chance for kind in QUESTIONS}
    protocol = f"questions-{per_type}"
    result = EvalResult("scenes-questions", protocol, stated, len(rows), len(rows), step=step, items=f"{name}.items.jsonl")
    run.write_eval(name, result)


def write_samples(run: RunDir, items: Sequence[Mapping[str, Any]], size: int = 8) -> None:
    """A picture of each item: one flat colour that names it, see `color_of`."""
    folder = ImageFolder(run.samples)
    entries = []
    for item in items:
        folder.write_prompt(item["prompt_id"], {"tag": item["tag"], "prompt": item["prompt"]})
        image = Image.fromarray(np.full((size, size, 3), color_of(item), np.uint8))
        entries.append(folder.write_image(item["prompt_id"], item["sample"], 0, image))
    folder.finish(entries, len(items))


def color_of(item: Mapping[str, Any]) -> tuple[int, int, int]:
    return (10 * item["prompt_id"] % 256, 40 * item["sample"] + 5, 77)
