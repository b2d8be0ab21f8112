"""From a trained model to GenEval records on the scenes world: sample the benchmark, score it, write the result."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_folder
from rf_repro.compute.devices import trying
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped
from rf_repro.core.files import write_jsonl, write_text
from rf_repro.core.hashing import derive_seed, file_sha256
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images, to_pixels
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import BenchmarkPrompt, SceneBatch, ScenesWorld
from rf_repro.sample.answer import answer_questions
from rf_repro.sample.sampler import Sampler
from rf_repro.train.trainer import Trainer
from rf_repro.worlds.scenes.colors import SceneColorClassifier
from rf_repro.worlds.scenes.detector import SceneDetector
from rf_repro.worlds.scenes.probe import probe_codes
from rf_repro.worlds.scenes.questions import score_answers

BENCHMARK = "geneval-scenes"
GROUND_TRUTH_SEED = 1  # of the renderings that stand for the benchmark's prompts
PROBE_SCENES = 8_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """One image to make: the prompt, its metadata, the index among the prompt's images, and the generator's seed."""

    prompt_id: int
    sample: int
    metadata: dict[str, Any]
    seed: int


def requests(prompts: Sequence[BenchmarkPrompt]) -> list[Request]:
    """Every image of a benchmark, prompt by prompt. Seeds depend on (prompt id, sample) alone: every variant starts from
    the same noise, whatever the batch size, and after any resumption."""
    return [
        Request(p.prompt_id, sample, p.metadata, derive_seed("sample", p.prompt_id, sample))
        for p in prompts
        for sample in range(p.num_samples)
    ]


class SceneEvaluation:
    """GenEval on one scenes world."""

    def __init__(self, config: ExperimentConfig, world: ScenesWorld, tokenizer: SceneTokenizer) -> None:
        self.config, self.world, self.tokenizer = config, world, tokenizer

    @cached_property
    def detector(self) -> SceneDetector:
        return SceneDetector(self.config.data.scenes)

    @cached_property
    def classifier(self) -> SceneColorClassifier:
        return SceneColorClassifier(self.config.data.scenes)

    def text_ids(self, wanted: Sequence[Request]) -> Tensor:
        """Captions as int64 [B, T]."""
        return torch.from_numpy(self.tokenizer.encode([r.metadata["prompt"] for r in wanted], self.config.data.caption_tokens))

    def ground_truth(self, wanted: Sequence[Request]) -> SceneBatch:
        """True renderings of the prompts."""
        return self.world.for_prompts([r.metadata for r in wanted], seed=GROUND_TRUTH_SEED)

    def sample(
        self,
        sampler: Sampler,
        wanted: Sequence[Request],
        out: ImageFolder,
        progress: Progress,
        representation: Tensor | None = None,
    ) -> None:
        """Makes the images into a folder; batches already there are kept. `representation`, as of `Sampler.sample`, replaces
        stage 1."""
        for prompt_id, metadata in {r.prompt_id: r.metadata for r in wanted}.items():
            out.write_prompt(prompt_id, metadata)
        size = self.config.sampling.batch_size
        for first in range(0, len(wanted), size):
            batch = wanted[first : first + size]
            if all(out.image_path(r.prompt_id, r.sample).exists() for r in batch):
                continue
            progress("sample", first, len(wanted))
            given = None if representation is None else representation[first : first + size]
            with trying(sampler.device):
                images, _ = sampler.sample(self.text_ids(batch), [r.seed for r in batch], given)
            self._write(out, batch, to_pixels(images).cpu().numpy())
        progress("sample", len(wanted), len(wanted))
        self._finish(out, wanted)

    def write_images(self, wanted: Sequence[Request], images: np.ndarray, out: ImageFolder) -> None:
        """Writes given images, uint8 [B, S, S, 3], as if they had been sampled."""
        for prompt_id, metadata in {r.prompt_id: r.metadata for r in wanted}.items():
            out.write_prompt(prompt_id, metadata)
        self._write(out, wanted, images)
        self._finish(out, wanted)

    def _write(self, out: ImageFolder, wanted: Sequence[Request], images: np.ndarray) -> None:
        for r, image in zip(wanted, images, strict=True):
            out.write_image(r.prompt_id, r.sample, r.seed, Image.fromarray(image))

    def _finish(self, out: ImageFolder, wanted: Sequence[Request]) -> None:
        entries = [SampleEntry(r.prompt_id, r.sample, r.seed, file_sha256(out.image_path(r.prompt_id, r.sample))) for r in wanted]
        out.finish(entries, expected=len(wanted))

    def score(
        self, folder: ImageFolder, run: RunDir, name: str, progress: Progress, step: int | None, weights: str
    ) -> EvalResult:
        """Scores a complete folder by GenEval's rules and records it under the run as evaluation `name`."""
        result, rows = evaluate_folder(
            folder, self.detector, self.classifier, GenEvalOptions(), benchmark=BENCHMARK, step=step, weights=weights,
            progress=lambda done, total: progress("evaluate", done, total),
        )  # fmt: skip
        items = f"{name}.items.jsonl"
        write_jsonl(run.evals / items, rows)
        result = replace(result, items=items)
        run.write_eval(name, result)
        return result


def evaluate_ground_truth(evaluation: SceneEvaluation, run: RunDir, progress: Progress) -> None:
    """Gates of the evaluator itself: the score of true renderings, and of true renderings under randomly permuted prompts."""
    wanted = requests(evaluation.world.benchmark(evaluation.config.evals.images_per_task))
    truth = evaluation.ground_truth(wanted).images
    if run.eval_result("geneval-ground-truth") is None:
        with temporary_folder(run) as folder:
            evaluation.write_images(wanted, truth, folder)
            evaluation.score(folder, run, "geneval-ground-truth", progress, None, "rendered")
    if run.eval_result("geneval-mismatched") is None:
        order = np.random.default_rng(GROUND_TRUTH_SEED).permutation(len(wanted))
        with temporary_folder(run) as folder:
            evaluation.write_images(wanted, truth[order], folder)
            evaluation.score(folder, run, "geneval-mismatched", progress, None, "rendered, prompts permuted")


def evaluate_curve(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """A point of the learning curve: a small benchmark at the present step, scored once. Nothing without generation."""
    name = f"geneval-step{trainer.step:06d}"
    if trainer.model.pixels is None or run.eval_result(name) is not None:
        return
    wanted = requests(evaluation.world.benchmark(evaluation.config.evals.curve_images_per_task))
    with temporary_folder(run) as folder:
        evaluation.sample(make_sampler(trainer), wanted, folder, progress)
        evaluation.score(folder, run, name, progress, trainer.step, "ema")


def evaluate_final(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """All scores of a finished run that it does not have yet."""
    if trainer.model.pixels is not None:
        evaluate_generation(evaluation, trainer, run, progress)
    if trainer.vq is not None:
        evaluate_codebook(evaluation, trainer, run)
    if trainer.config.evals.questions_per_type:
        evaluate_understanding(evaluation, trainer, run, progress)


def evaluate_understanding(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """The scenes question suite, answered greedily by the averaged weights (Table 2)."""
    if run.eval_result("questions") is not None:
        return
    batch = SceneQuestions(evaluation.config.data.scenes).held_out(evaluation.config.evals.questions_per_type)
    progress("answer", 0, len(batch.questions))
    model, length = trainer.inference_model(), evaluation.config.data.answer_tokens
    with trying(trainer.device):
        answers = answer_questions(
            model, batch.images, batch.questions, evaluation.tokenizer, max_new_tokens=length,
            batch_size=trainer.config.sampling.batch_size,
        )  # fmt: skip
    result, rows = score_answers(batch, answers, step=trainer.step, weights="ema")
    items = "questions.items.jsonl"
    write_jsonl(run.evals / items, rows)
    run.write_eval("questions", replace(result, items=items))
    progress("answer", len(answers), len(answers))


def sample_benchmark(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """The benchmark's images, to be scored; nothing without generation."""
    if trainer.model.pixels is not None:
        wanted = requests(evaluation.world.benchmark(evaluation.config.evals.images_per_task))
        evaluation.sample(make_sampler(trainer), wanted, ImageFolder(run.samples), progress)


def evaluate_generation(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """The scored samples; with representation tokens also the score of samples made from the true images' tokens."""
    if run.eval_result("geneval") is None:
        evaluation.score(ImageFolder(run.samples), run, "geneval", progress, trainer.step, "ema")
    if trainer.model.representation is not None and run.eval_result("geneval-ground-truth-representation") is None:
        wanted = requests(evaluation.world.benchmark(evaluation.config.evals.images_per_task))
        truth = tokens_of(trainer, evaluation.ground_truth(wanted).images)
        with temporary_folder(run) as folder:
            evaluation.sample(make_sampler(trainer), wanted, folder, progress, truth)
            evaluation.score(folder, run, "geneval-ground-truth-representation", progress, trainer.step, "ema")


def evaluate_codebook(evaluation: SceneEvaluation, trainer: Trainer, run: RunDir) -> None:
    """What a linear probe reads from the codes: the gate without which RF cannot help."""
    if run.eval_result("codebook-probe") is not None:
        return
    count = min(PROBE_SCENES, evaluation.config.data.scenes.num_train)
    scenes = evaluation.world.train(np.arange(count))
    size = evaluation.config.representation.codebook_size
    metrics, n = probe_codes(
        tokens_of(trainer, scenes.images), scenes.shape, scenes.color, scenes.center, size,
        evaluation.config.data.scenes.image_size,
    )  # fmt: skip
    protocol = f"linear probe of 4 codes an object, {count} training scenes, a fifth held out"
    run.write_eval("codebook-probe", EvalResult("codebook-probe", protocol, dict(metrics), n, n, step=trainer.step))


def tokens_of(trainer: Trainer, images: np.ndarray) -> Tensor:
    """Representation tokens of images uint8 [N, S, S, 3]: codes int64 [N, R], assigned in batches of the training size, as in
    training, or features [N, R, F]."""
    size = trainer.stage.mixture.generation
    pieces = []
    for first in range(0, len(images), size):
        (features,) = trainer.target_features([to_images(torch.from_numpy(images[first : first + size]))])
        if trainer.vq is not None:
            pieces.append(trainer.vq.assign(features.flatten(0, 1)).view(features.shape[:2]).cpu())
        else:
            pieces.append(trainer.continuous_targets(features).cpu())
    return torch.cat(pieces)


def make_sampler(trainer: Trainer) -> Sampler:
    """A sampler of the averaged weights."""
    return Sampler(trainer.inference_model(), trainer.space, trainer.config.sampling, trainer.tokens)


@contextmanager
def temporary_folder(run: RunDir) -> Iterator[ImageFolder]:
    """An image folder for images that only their scores outlive."""
    with run.scratch() as path:
        yield ImageFolder(path)


def progress_writer(run: RunDir, stop: Callable[[], bool]) -> Progress:
    """Keeps `progress.json` of a run up to date, for whoever watches it; ends the work with `Stopped` when `stop` says so."""

    def write(phase: str, done: int, total: int) -> None:
        if stop():
            raise Stopped(f"{phase} {done}/{total}: asked to stop")
        write_text(run.path / "progress.json", json.dumps({"phase": phase, "done": done, "total": total}), durable=False)

    return write
