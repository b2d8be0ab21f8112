"""What reads files that may come from strangers, each with a folder of such files made on the spot."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from evaluators.geneval.folder import scan
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.prompt_sets import load as load_prompts
from evaluators.geneval.sampled import evaluate_folder
from evaluators.understanding.benchmarks import BENCHMARKS
from evaluators.understanding.data import load_questions
from evaluators.understanding.run import score_replies
from evaluators.vlm.ask import Replies
from reports.build import make_document
from reports.findings import find
from reports.markdown import render_markdown
from rf_repro.commands.options import read_sources
from rf_repro.config.data_schema import SourceConfig
from rf_repro.config.overrides import apply_overrides, config_of
from rf_repro.config.scales import get_scale, smoke
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_json, write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.data.shards.export import write_shard
from rf_repro.data.shards.reading import read_shard, shard_length
from rf_repro.data.shards.samples import RawSample
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.evaluations.plan import BUNDLED, load_plan
from rf_repro.launch.plan import make_plan
from rf_repro.launch.progress import read_progress
from rf_repro.model.hf_checkpoint import HFCheckpoint
from rf_repro.train.checkpoint import load_checkpoint
from rf_repro.worlds.scenes.benchmark import SceneBenchmark
from slurm.profile import BUNDLED as PROFILES
from slurm.profile import load_profile
from tests.data.tiny_shards import png
from tests.data.tiny_tokenizer import write_tiny_tokenizer
from tests.evaluators.understanding_files import MINIS, write_tsv
from tests.reports.runs import (
    make_items,
    write_curve_items,
    write_geneval,
    write_metrics,
    write_questions,
    write_run,
    write_samples,
)
from tests.train.test_checkpoint import checkpoint, save_checkpoint


@dataclass(frozen=True)
class Target:
    """`prepare` fills a folder, `run` reads it, whatever has become of it."""

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], object]


def _runs(folder: Path) -> None:
    for variant in ("pixel", "pixel_rf"):
        run = write_run(folder, variant, 0)
        items = make_items(lambda task, index, sample: index < 2, prompts=3)
        write_geneval(run, items)
        write_metrics(run, [10, 20, 30], 0.1, codebook=variant == "pixel_rf")
        write_curve_items(run, 15, items[::2])
        write_questions(run, lambda kind, index: index < 5)
    write_run(folder, "stage-pretrain", 0)


def _pictured_runs(folder: Path) -> None:
    run = write_run(folder, "pixel_rf", 0)
    items = make_items(lambda task, index, sample: index < 2, prompts=2)
    write_geneval(run, items)
    write_samples(run, items)


def _report(folder: Path) -> None:
    find([folder], "smoke")


def _page(folder: Path) -> None:
    render_markdown(make_document(find([folder], "smoke")))


def _plan(folder: Path) -> None:
    for job in make_plan("smoke", ["table3a"], [0], folder).jobs:
        _ = job.state, read_progress(job)
        if job.run.record_path.exists():
            config_of(job.run)
            job.run.eval_names()


def _settings(folder: Path) -> None:
    for name in ("cpu", "gpu-cluster"):
        (folder / f"{name}.yaml").write_bytes((PROFILES / f"{name}.yaml").read_bytes())
    (folder / "plan.yaml").write_bytes(BUNDLED.read_bytes())
    (folder / "data.yaml").write_text("sources:\n- {name: photos, path: ~/photos/*.tar, format: webdataset, task: generation}\n")


def _read_settings(folder: Path) -> None:
    readers = {"cpu": load_profile, "gpu-cluster": load_profile, "plan": load_plan, "data": lambda name: read_sources(Path(name))}
    _each(*(lambda name=name, read=read: read(str(folder / f"{name}.yaml")) for name, read in readers.items()))


def _shards(folder: Path) -> None:
    samples = [RawSample(f"{number:04d}", png(16, 16, number), "a photo of nothing", ()) for number in range(3)]
    for suffix, name in (("tar", "webdataset"), ("parquet", "parquet"), ("jsonl", "jsonl")):
        write_shard(folder / f"photos.{suffix}", samples, name)


def _read_shards(folder: Path) -> None:
    for suffix, name in (("tar", "webdataset"), ("parquet", "parquet"), ("jsonl", "jsonl")):
        path = folder / f"photos.{suffix}"
        source = SourceConfig("photos", str(path), name, "generation")  # type: ignore[arg-type]
        shard_length(path, source)
        list(read_shard(path, source))


def _geneval(folder: Path) -> None:
    rows = [
        {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of two dogs"},
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
    ]
    write_jsonl(folder / "prompts.jsonl", rows)
    for prompt_id, row in enumerate(rows):
        place = folder / "images" / f"{prompt_id:05d}"
        write_json(place / "metadata.jsonl", row)
        (place / "samples").mkdir()
        for sample in range(2):
            (place / "samples" / f"{sample:04d}.png").write_bytes(png(32, 32, 10 * sample))


def _read_geneval(folder: Path) -> None:
    _each(
        lambda: scan(folder / "images", num_prompts=2, images_per_prompt=2),
        lambda: load_prompts(str(folder / "prompts.jsonl")),
    )


def _sampled(folder: Path) -> None:
    benchmark = SceneBenchmark(smoke())
    wanted = benchmark.wanted(1)
    benchmark.write_images(wanted, benchmark.ground_truth(wanted).images, ImageFolder(folder))


def _read_sampled(folder: Path) -> None:
    benchmark = SceneBenchmark(smoke())
    evaluate_folder(ImageFolder(folder), benchmark.detector, benchmark.classifier, GenEvalOptions())


def _questions(folder: Path) -> None:
    for name, mini in MINIS.items():
        write_tsv(folder / name / f"{BENCHMARKS[name].tsv[0]}.tsv", mini)
    (folder / "replies.txt").write_text("B\n[1, 2]\n{'a': [1]}\n(A) 1,000 %\nyes, it is\n3.5\n1/2\n" + "The answer is B. " * 20)


def _read_questions(folder: Path) -> None:
    """Whatever a model says is an answer: where there are questions, they end with a score."""
    said = (folder / "replies.txt").read_bytes().decode(errors="replace")[:100_000] if (folder / "replies.txt").is_file() else ""
    replies = [said, *said.splitlines()]

    def scored(name: str) -> None:
        benchmark = BENCHMARKS[name]
        questions = load_questions(benchmark, str(folder / name))
        answers = {row.key: replies[number % len(replies)] for number, row in enumerate(questions.rows)}
        score_replies(benchmark, questions, Replies(answers), "protocol", "model")

    _each(*(lambda name=name: scored(name) for name in MINIS))


def _pretrained(folder: Path) -> None:
    save_file({"a": torch.zeros(3), "b": torch.zeros(2, 2)}, folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys("ab", "model-00001-of-00001.safetensors")}
    write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", {"model_type": "qwen3", "hidden_size": 8, "architectures": ["Qwen3ForCausalLM"]})
    write_tiny_tokenizer(folder)


def _read_pretrained(folder: Path) -> None:
    config = apply_overrides(get_scale("paper"), {"data.tokenizer": str(folder)})
    _each(lambda: HFCheckpoint(str(folder)), lambda: ImageTextTokenizer.from_config(config))


def _checkpoint(folder: Path) -> None:
    save_checkpoint(folder, checkpoint(5))


def _each(*reads: Callable[[], object]) -> None:
    """Every one of them, whatever the ones before it say; then the first refusal."""
    refusals = []
    for read in reads:
        try:
            read()
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


TARGETS = (
    Target("report", _runs, _report),
    Target("page", _pictured_runs, _page),
    Target("plan", _runs, _plan),
    Target("settings", _settings, _read_settings),
    Target("shards", _shards, _read_shards),
    Target("geneval", _geneval, _read_geneval),
    Target("sampled", _sampled, _read_sampled),
    Target("questions", _questions, _read_questions),
    Target("pretrained", _pretrained, _read_pretrained),
    Target("checkpoint", _checkpoint, lambda folder: load_checkpoint(folder / "step-000005")),
)
