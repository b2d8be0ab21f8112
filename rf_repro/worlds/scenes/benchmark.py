"""GenEval's tasks on scenes: prompts, images for them from a sampler or from the renderer, and their scores as records."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.sampled import evaluate_folder, load_listed
from rf_repro.compute.devices import trying
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.hashing import derive_seed, file_sha256
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_pixels
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import SceneBatch, ScenesWorld
from rf_repro.sample.requests import Request
from rf_repro.sample.sampler import Sampler
from rf_repro.worlds import Progress
from rf_repro.worlds.scenes.colors import SceneColorClassifier
from rf_repro.worlds.scenes.detector import SceneDetector

BENCHMARK = "geneval-scenes"
GROUND_TRUTH_SEED = 1  # of the renderings that stand for the benchmark's prompts


class SceneBenchmark:
    """GenEval on the scenes world of a config."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.world, self.tokenizer = ScenesWorld(config.data.scenes), SceneTokenizer(config.data.scenes)

    def wanted(self, images_per_task: int) -> list[Request]:
        """Every image of the benchmark, prompt by prompt. Seeds depend on (prompt id, sample) alone: every variant starts from
        the same noise, whatever the batch size, and after any resumption."""
        return [
            Request(p.prompt_id, sample, p.metadata, derive_seed("sample", p.prompt_id, sample))
            for p in self.world.benchmark(images_per_task)
            for sample in range(p.num_samples)
        ]

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

    def score(self, folder: ImageFolder, run: RunDir, name: str, progress: Progress, step: int | None, weights: str) -> None:
        """Scores a complete folder by GenEval's rules and records it under the run as evaluation `name`."""
        result, rows = evaluate_folder(
            folder, self.detector, self.classifier, GenEvalOptions(), benchmark=BENCHMARK, step=step, weights=weights,
            progress=lambda done, total: progress("evaluate", done, total),
        )  # fmt: skip
        run.write_eval(name, result, rows)

    def score_objects(self, folder: ImageFolder, run: RunDir, step: int) -> None:
        """Records as `objects` how many images of a complete folder collapse, whatever was asked for (paper Fig. 4): the share
        without any object that GenEval's rules count, and the share with a broken one, which its rule for counting does not
        take for a clean shape. Of true renderings .001 and none do."""
        options, empty, broken, entries = GenEvalOptions(), 0, 0, folder.entries()
        images = [image for entry in entries if not isinstance(image := load_listed(folder, entry), str)]
        for found in self.detector.detect(images):
            scores = [float(score) for detections in found.values() for score in detections.scores]
            empty += not any(score > options.threshold for score in scores)
            broken += any(score <= options.counting_threshold for score in scores)
        n, expected = len(images), len(entries)
        shares = {"no_object": empty / n if n else None, "broken_object": broken / n if n else None}
        missing = {} if n else dict.fromkeys(shares, "no image can be read")
        seen = {"detector": self.detector.name, "detector_revision": self.detector.revision}
        protocol = f"no object above {options.threshold}; an object at most at {options.counting_threshold}"
        result = EvalResult(BENCHMARK, protocol, shares, n, expected, expected - n, missing, seen, step, "ema")
        run.write_eval("objects", result)


@lru_cache(maxsize=1)
def benchmark_of(config: ExperimentConfig) -> SceneBenchmark:
    """That of a config; what it made is kept for its next use."""
    return SceneBenchmark(config)


@contextmanager
def temporary_folder(run: RunDir) -> Iterator[ImageFolder]:
    """An image folder for images that only their scores outlive."""
    with run.scratch() as path:
        yield ImageFolder(path)
