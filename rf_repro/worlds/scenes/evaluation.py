"""A run of the scenes world, sampled and scored: the learning curve, the benchmark, the codebook, the questions."""

import numpy as np
import torch
from torch import Tensor

from rf_repro.compute.devices import trying
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.sample.sampler import Sampler
from rf_repro.train.trainer import Trainer
from rf_repro.worlds import Progress
from rf_repro.worlds.scenes.answers import answer_questions
from rf_repro.worlds.scenes.benchmark import GROUND_TRUTH_SEED, benchmark_of, temporary_folder
from rf_repro.worlds.scenes.probe import PROBE_SCENES, probe_codes
from rf_repro.worlds.scenes.questions import score_answers

OTHERS = 2_048  # training images that true images are assigned among


def evaluate_curve(trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """A point of the learning curves: a small benchmark, where it generates, and some questions at the present step, each scored
    once."""
    evals, at = trainer.config.evals, f"step{trainer.step:06d}"
    if trainer.model.pixels is not None and run.eval_result(f"geneval-{at}") is None:
        benchmark = benchmark_of(trainer.config)
        wanted = benchmark.wanted(evals.curve_images_per_task)
        with temporary_folder(run) as folder:
            benchmark.sample(make_sampler(trainer), wanted, folder, progress)
            benchmark.score(folder, run, f"geneval-{at}", progress, trainer.step, "ema")
    if evals.curve_questions_per_type:
        evaluate_understanding(trainer, run, progress, f"questions-{at}", evals.curve_questions_per_type)


def sample_benchmark(trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """The benchmark's images, to be scored; nothing without generation."""
    if trainer.model.pixels is not None:
        benchmark = benchmark_of(trainer.config)
        wanted = benchmark.wanted(trainer.config.evals.images_per_task)
        benchmark.sample(make_sampler(trainer), wanted, ImageFolder(run.samples), progress)


def evaluate_final(trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """All scores of a finished run that it does not have yet."""
    if trainer.model.pixels is not None:
        evaluate_generation(trainer, run, progress)
    if trainer.targets is not None and trainer.targets.values.num_codes:
        evaluate_codebook(trainer, run)
    if trainer.config.evals.questions_per_type:
        evaluate_understanding(trainer, run, progress, "questions", trainer.config.evals.questions_per_type)


def evaluate_generation(trainer: Trainer, run: RunDir, progress: Progress) -> None:
    """The scored samples, and how many collapse; with representation tokens also samples made from the true images' tokens."""
    benchmark = benchmark_of(trainer.config)
    if run.eval_result("geneval") is None:
        benchmark.score(ImageFolder(run.samples), run, "geneval", progress, trainer.step, "ema")
    if run.eval_result("objects") is None:
        benchmark.score_objects(ImageFolder(run.samples), run, trainer.step)
    if trainer.model.representation is not None and run.eval_result("geneval-ground-truth-representation") is None:
        wanted = benchmark.wanted(trainer.config.evals.images_per_task)
        truth = true_tokens(trainer, benchmark.ground_truth(wanted).images)
        with temporary_folder(run) as folder:
            benchmark.sample(make_sampler(trainer), wanted, folder, progress, truth)
            benchmark.score(folder, run, "geneval-ground-truth-representation", progress, trainer.step, "ema")


def evaluate_codebook(trainer: Trainer, run: RunDir) -> None:
    """What a linear probe reads from the codes: the gate without which RF cannot help."""
    if run.eval_result("codebook-probe") is not None:
        return
    assert trainer.targets is not None
    config = trainer.config.data.scenes
    count = min(PROBE_SCENES, config.num_train)
    scenes = benchmark_of(trainer.config).world.train(np.arange(count))
    metrics, n = probe_codes(
        tokens_of(trainer, scenes.images), scenes.shape, scenes.color, scenes.center, trainer.targets.values.num_codes,
        config.image_size,
    )  # fmt: skip
    protocol = f"linear probe of 4 codes an object, {count} training scenes, a fifth held out"
    run.write_eval("codebook-probe", EvalResult("codebook-probe", protocol, dict(metrics), n, n, step=trainer.step))


def evaluate_understanding(trainer: Trainer, run: RunDir, progress: Progress, name: str, per_type: int) -> None:
    """The scenes question suite, answered greedily by the averaged weights (Table 2); recorded as evaluation `name`."""
    if run.eval_result(name) is not None:
        return
    config = trainer.config
    batch = SceneQuestions(config.data.scenes).held_out(per_type)
    progress("answer", 0, len(batch.questions))
    with trying(trainer.device):
        answers = answer_questions(
            trainer.inference_model(), batch.images, batch.questions, benchmark_of(config).tokenizer,
            max_new_tokens=config.data.answer_tokens, batch_size=config.sampling.batch_size,
        )  # fmt: skip
    result, rows = score_answers(batch, answers, step=trainer.step, weights="ema")
    run.write_eval(name, result, rows)
    progress("answer", len(answers), len(answers))


def tokens_of(trainer: Trainer, images: np.ndarray) -> Tensor:
    """Representation tokens of images uint8 [N, S, S, 3]: values [N, R, ...], assigned in batches of the training size, as in
    training."""
    assert trainer.targets is not None
    size = trainer.stage.mixture.generation
    batches = [to_images(torch.from_numpy(images[first : first + size])) for first in range(0, len(images), size)]
    return torch.cat([trainer.targets.of_images(batch).cpu() for batch in batches])


def true_tokens(trainer: Trainer, images: np.ndarray) -> Tensor:
    """`tokens_of`, each image assigned alone among training images, as in training.

    Codes are balanced over a batch: one of images that are alike, as those of one prompt are, would be given other codes than
    what they share.
    """
    assert trainer.targets is not None
    targets, config = trainer.targets, trainer.config
    count, size = min(OTHERS, config.data.scenes.num_train), trainer.stage.mixture.generation

    def features(pixels: np.ndarray) -> Tensor:
        parts = to_images(torch.from_numpy(pixels)).split(config.sampling.batch_size)
        return torch.cat([targets.features([part])[0] for part in parts])

    own, others = features(images), features(benchmark_of(config).world.train(np.arange(count)).images)
    draws = np.random.default_rng(GROUND_TRUTH_SEED)
    found = []
    for one in own:
        beside = others[torch.from_numpy(draws.integers(count, size=size - 1)).to(others.device)]
        values = targets.values.values(torch.cat([one[None], beside]).flatten(0, 1))
        found.append(values[: len(one)].cpu())
    return torch.stack(found)


def make_sampler(trainer: Trainer) -> Sampler:
    """A sampler of the averaged weights."""
    return Sampler(trainer.inference_model(), trainer.space, trainer.config.sampling, trainer.tokens)
