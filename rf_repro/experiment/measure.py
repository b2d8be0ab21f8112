"""What machine this is, and how fast it does each unit of a run's work: behind the first line of `rf-repro reproduce`.

    python -P -m rf_repro.experiment.measure < REQUEST.json

reads {"device": NAME, "threads": NUMBER, "seconds": LIMIT, "runs": {NAME: CONFIG}} and prints a JSON object: what it found
("machine"); for each run that was measured within the limit the seconds of a step, of an image drawn or scored, of a question
answered ("speeds"); what there was to say ("told"). Or "error", where the device is not there.
The launcher starts as many of these at once as it will start runs, so that what they take from each other is counted.
"""

import io
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_images
from rf_repro.compute.arithmetic import arithmetic
from rf_repro.compute.devices import on_device, trying
from rf_repro.compute.ranks import ALONE
from rf_repro.config.overrides import from_dict
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packing import to_pixels
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.experiment.run import make_trainer
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.model.vae import KLAutoencoder, LatentSpace
from rf_repro.sample.answer import answer_questions
from rf_repro.train.encoder_pretraining import EncoderPretraining
from rf_repro.train.trainer import Trainer
from rf_repro.train.vae_trainer import VAETrainer
from rf_repro.worlds.scenes.evaluation import SceneEvaluation, make_sampler, requests

SCENES = 256  # to train on: the whole world takes longer to render than all that is measured
STEPS = 2
IMAGES = 32  # drawn and scored
QUESTIONS = 4  # of each type


def measure(name: str, config: ExperimentConfig, device: torch.device) -> dict[str, float]:
    """Seconds that each unit of a run's work takes, with random weights.

    Args:
        name: a variant's key, or `stage-vae`, `stage-encoder`, ... of a stage.

    Raises:
        DeviceFailed: the device cannot do it.
    """
    scenes = replace(config.data.scenes, num_train=SCENES)
    config = replace(
        config, data=replace(config.data, scenes=scenes), representation=replace(config.representation, warmup_batches=0)
    )
    tokenizer = SceneTokenizer(scenes)
    with trying(device):
        if name == "stage-vae":
            return {"step": _a_step(VAETrainer(config, 0, device, SceneMixture(config.data, tokenizer).images))}
        if name == "stage-encoder":
            return {"step": _a_step(EncoderPretraining(config, 0, device, SceneMixture(config.data, tokenizer), tokenizer))}
        trainer = make_trainer(config, 0, device, None, None, _space(config, device), ALONE)
        trainer.begin()
        speeds = {"step": _a_step(trainer)}
        return speeds if config.stages[-1].shared else speeds | dict(_evaluations(trainer, tokenizer))


def _a_step(trainer: Trainer | VAETrainer | EncoderPretraining) -> float:
    trainer.train_step()  # the first one makes what the others find
    return _seconds(trainer.device, lambda: [trainer.train_step() for _ in range(STEPS)]) / STEPS


def _evaluations(trainer: Trainer, tokenizer: SceneTokenizer) -> Iterator[tuple[str, float]]:
    config, device = trainer.config, trainer.device
    evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
    if trainer.model.pixels is not None:
        every_task = requests(evaluation.world.benchmark(IMAGES))[::6][:IMAGES]
        sampler, text, seeds = make_sampler(trainer), evaluation.text_ids(every_task), [one.seed for one in every_task]
        yield "draw", _seconds(device, lambda: to_pixels(sampler.sample(text, seeds)[0]).cpu()) / len(every_task)
        pictures = [Image.fromarray(image) for image in evaluation.ground_truth(every_task).images]
        metadata = [one.metadata for one in every_task]
        detector, classifier = evaluation.detector, evaluation.classifier  # made before the clock starts
        scored = _seconds(device, lambda: evaluate_images(pictures, metadata, detector, classifier, GenEvalOptions()))
        yield "score", scored / len(every_task)
    if config.evals.questions_per_type:
        asked = SceneQuestions(config.data.scenes).held_out(QUESTIONS)
        model, length = trainer.inference_model(), config.data.answer_tokens
        yield "answer", _seconds(device, lambda: answer_questions(
            model, asked.images, asked.questions, tokenizer, max_new_tokens=length, batch_size=len(asked.questions)
        )) / len(asked.questions)  # fmt: skip


def _space(config: ExperimentConfig, device: torch.device) -> ImageSpace:
    if config.model.pixel.space != "vae":
        return PixelSpace(config.model.pixel.patch_size)
    vae = KLAutoencoder(config.model.vae)
    vae.initialise(0)
    return LatentSpace(vae.to(device).requires_grad_(False), config.model.pixel.patch_size)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def describe(device: torch.device, wish: str) -> dict[str, Any]:
    """What computes: "system", "processor", "kind" of device, its name ("device"), "gpus" seen by this process, "arithmetic".

    Args:
        wish: `optim.precision` of what will run.
    """
    is_cuda = device.type == "cuda"
    return {
        "system": f"{platform.system().replace('Darwin', 'macOS')} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "gpus": torch.cuda.device_count() if is_cuda else 0,
        "kind": device.type,
        "arithmetic": arithmetic(wish, device),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


def main() -> None:
    begin, asked = time.monotonic(), json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    configs = {name: from_dict(config) for name, config in asked["runs"].items()}
    speeds: dict[str, dict[str, float]] = {}

    def work(device: torch.device) -> dict[str, Any]:
        for name, config in configs.items():
            if not speeds or time.monotonic() - begin < asked["seconds"]:
                speeds[name] = measure(name.partition("/")[0], config, device)
        return describe(device, next(iter(configs.values())).optim.precision)

    told = io.StringIO()
    try:
        with redirect_stderr(told):
            found = on_device(asked["device"], work)
    except UserError as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"machine": found, "speeds": speeds, "told": told.getvalue().splitlines()}))


if __name__ == "__main__":
    main()
