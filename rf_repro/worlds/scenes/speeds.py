"""How long it takes to draw and to score an image of scenes, and to answer a question about one."""

from collections.abc import Iterator

from PIL import Image

from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_images
from rf_repro.compute.devices import seconds
from rf_repro.data.packing import to_pixels
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.train.trainer import Trainer
from rf_repro.worlds.scenes.answers import answer_questions
from rf_repro.worlds.scenes.benchmark import benchmark_of
from rf_repro.worlds.scenes.evaluation import make_sampler

IMAGES = 32  # drawn and scored
QUESTIONS = 4  # of each type


def speeds(trainer: Trainer) -> Iterator[tuple[str, float]]:
    """(unit, seconds) of what the config asks for."""
    config, device, benchmark = trainer.config, trainer.device, benchmark_of(trainer.config)
    if trainer.model.pixels is not None:
        every_task = benchmark.wanted(IMAGES)[::6][:IMAGES]
        sampler, text, seeds = make_sampler(trainer), benchmark.text_ids(every_task), [one.seed for one in every_task]
        yield "draw", seconds(device, lambda: to_pixels(sampler.sample(text, seeds)[0]).cpu()) / len(every_task)
        pictures = [Image.fromarray(image) for image in benchmark.ground_truth(every_task).images]
        metadata = [one.metadata for one in every_task]
        detector, classifier = benchmark.detector, benchmark.classifier  # made before the clock starts
        scored = seconds(device, lambda: evaluate_images(pictures, metadata, detector, classifier, GenEvalOptions()))
        yield "score", scored / len(every_task)
    if config.evals.questions_per_type:
        asked = SceneQuestions(config.data.scenes).held_out(QUESTIONS)
        model, length = trainer.inference_model(), config.data.answer_tokens
        yield "answer", seconds(device, lambda: answer_questions(
            model, asked.images, asked.questions, benchmark.tokenizer, max_new_tokens=length, batch_size=len(asked.questions)
        )) / len(asked.questions)  # fmt: skip
