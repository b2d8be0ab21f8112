"""What must hold before scores of the scenes world mean something: of its evaluator, of the encoder, of the VAE."""

import numpy as np
import torch

from rf_repro.compute.devices import trying
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images, to_pixels
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.model.space import ImageSpace
from rf_repro.train.encoder_pretraining import EncoderPretraining
from rf_repro.train.vae_trainer import CHUNK
from rf_repro.worlds import Progress
from rf_repro.worlds.scenes.benchmark import GROUND_TRUTH_SEED, benchmark_of, temporary_folder
from rf_repro.worlds.scenes.probe import PROBE_SCENES, probe_features

PROBE_BATCH = 500  # images


def check_ground_truth(config: ExperimentConfig, run: RunDir, progress: Progress) -> None:
    """Of the evaluator itself: the score of true renderings, and of true renderings under randomly permuted prompts."""
    benchmark = benchmark_of(config)
    wanted = benchmark.wanted(config.evals.images_per_task)
    truth = benchmark.ground_truth(wanted).images
    if run.eval_result("geneval-ground-truth") is None:
        with temporary_folder(run) as folder:
            benchmark.write_images(wanted, truth, folder)
            benchmark.score(folder, run, "geneval-ground-truth", progress, None, "rendered")
    if run.eval_result("geneval-mismatched") is None:
        order = np.random.default_rng(GROUND_TRUTH_SEED).permutation(len(wanted))
        with temporary_folder(run) as folder:
            benchmark.write_images(wanted, truth[order], folder)
            benchmark.score(folder, run, "geneval-mismatched", progress, None, "rendered, prompts permuted")


def check_encoder(training: EncoderPretraining, run: RunDir) -> None:
    """Recorded as `encoder-probe`: whether shape and colour can be read linearly from the averaged encoder's pooled features."""
    if run.eval_result("encoder-probe") is not None:
        return
    encoder = training.averaged_encoder()
    config = training.config.data.scenes
    scenes = ScenesWorld(config).train(np.arange(min(PROBE_SCENES, config.num_train)))
    images = to_images(torch.from_numpy(scenes.images)).to(training.device, training.dtype)
    with torch.no_grad():
        features = torch.cat([encoder.pooled(part).float().cpu() for part in images.split(PROBE_BATCH)])
    metrics, n = probe_features(features, scenes.shape, scenes.color, scenes.center, config.image_size)
    protocol = f"linear probe of the mean of 4 cells' features, {len(images)} training scenes, a fifth held out"
    run.write_eval("encoder-probe", EvalResult("encoder-probe", protocol, dict(metrics), n, n, step=training.step, weights="ema"))


def check_reconstruction(
    config: ExperimentConfig, space: ImageSpace, run: RunDir, progress: Progress, device: torch.device
) -> None:
    """Of the VAE: GenEval of true renderings that went through `space` on `device`, by the way that generation takes.

    Recorded as `geneval-vae-reconstruction`; at least 0.97 of `geneval-ground-truth` is wanted.
    """
    if run.eval_result("geneval-vae-reconstruction") is not None:
        return
    benchmark = benchmark_of(config)
    wanted = benchmark.wanted(config.evals.images_per_task)
    truth = torch.from_numpy(benchmark.ground_truth(wanted).images)
    with trying(device):
        chunks = [space.decode(space.encode(to_images(images.to(device)))) for images in truth.split(CHUNK)]
    with temporary_folder(run) as folder:
        benchmark.write_images(wanted, to_pixels(torch.cat(chunks)).cpu().numpy(), folder)
        benchmark.score(folder, run, "geneval-vae-reconstruction", progress, None, "rendered, through the VAE")
