"""All that grids at scale `base` are trained on, sampled and scored by, built on the spot: tiny random models, shards of scenes
in real data's formats, prompts, questions, a judge, and images of another system."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rf_repro.cli import main
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.files import write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.data.scenes.world import ScenesWorld
from tests.base_world import base_overrides, write_models
from tests.evaluators.dpg_world import csv_text, simple_rows, write_grids
from tests.evaluators.tiny_vlm import save_tiny_vlm
from tests.evaluators.understanding_files import MINIS, write_parquet

SIDE = 64  # pixels, of every image
ITEMS = ("partiprompts97", "256")  # DPG-Bench's
SOURCES = {"gen": ("generation", "webdataset"), "und": ("understanding", "parquet"), "txt": ("text", "jsonl")}
STAGES = ("alignment", "joint", "continued")

EVALUATIONS = """\
geneval: {detector: scenes}
dpg: {judge: Tiny-VL}
understanding: {data: questions}
tables:
  table1:
    - {benchmark: geneval, prompts: prompts.jsonl, size: 1024, num: 2}
    - {benchmark: geneval, prompts: rewritten.jsonl, size: 1024, num: 2, rewritten: true}
    - {benchmark: dpg, prompts: dpg.csv, size: 1024}
  table3a: [{benchmark: geneval, prompts: prompts.jsonl, size: 256, num: 2}]
systems:
  bagel: {official: bagel/official, bagel-long: bagel/rewritten, dpg: bagel/dpg}
"""


def write_evaluation_world(folder: Path) -> list[str]:
    """Fills the folder: `data.yaml`, `evals.yaml` and what they name; the options that every command on it takes."""
    write_models(folder)
    for name, (task, form) in SOURCES.items():
        size = ["--image-size", "64"] if task != "text" else []
        assert main(["data", "scenes", "--out", str(folder / "scenes" / name), "--num", "60", "--task", task, "--format", form,
                     "--shard-size", "20", *size]) == 0  # fmt: skip
    rows = [f"- {{name: {name}, path: scenes/{name}, task: {task}, format: {form}}}" for name, (task, form) in SOURCES.items()]
    (folder / "data.yaml").write_text("\n".join(rows) + "\n")
    write_evaluations(folder)
    changes = [word for path, value in changes_of(folder).items() for word in ("--set", f"{path}={json.dumps(value)}")]
    return ["--scale", "base", "--data", str(folder / "data.yaml"), "--evaluations", str(folder / "evals.yaml"), *changes]


def changes_of(folder: Path) -> dict[str, Any]:
    """Changes to scale `base`, but for its data."""
    sizes = {f"stages.{name}.max_image_size": SIDE for name in STAGES}
    return base_overrides(folder) | sizes | {
        "model.max_image_size": SIDE,
        "stages.continued.min_image_size": 32,
        "data.scenes.image_size": SIDE,
        "data.caption_tokens": 60,
    }  # fmt: skip


def write_evaluations(folder: Path) -> None:
    """The plan, with prompts, questions, a judge, and pictures that stand for BAGEL's."""
    (folder / "evals.yaml").write_text(EVALUATIONS)
    prompts = [prompt.metadata for prompt in ScenesWorld(ScenesConfig(image_size=SIDE)).benchmark(1)]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "rewritten.jsonl", [{**row, "prompt": row["prompt"].replace("a photo of ", "")} for row in prompts])
    (folder / "dpg.csv").write_text(csv_text(simple_rows(ITEMS)), encoding="utf-8")
    save_tiny_vlm(folder / "Tiny-VL")
    for name, mini in MINIS.items():
        write_parquet(folder / "questions" / f"{name}.parquet", mini)
    write_grids(folder / "bagel" / "dpg", ITEMS)
    for name, file in (("official", "prompts.jsonl"), ("rewritten", "rewritten.jsonl")):
        pictures(folder / "bagel" / name, [json.loads(line) for line in (folder / file).read_text().splitlines()])


def pictures(folder: Path, prompts: list[dict[str, Any]]) -> None:
    """Two pictures of noise for each prompt, in GenEval's layout with a manifest."""
    images, draw = ImageFolder(folder), np.random.default_rng(0)
    entries = []
    for index, row in enumerate(prompts):
        images.write_prompt(index, row)
        noise = draw.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
        entries += [images.write_image(index, sample, 0, Image.fromarray(noise[sample])) for sample in range(2)]
    images.finish(entries, len(entries))
