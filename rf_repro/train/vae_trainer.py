"""Training of the in-suite VAE: reconstruction plus a little KL. It is trained once, and frozen for all VAE variants."""

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig, VAEConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.hashing import derive_seed
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import to_images, to_pixels
from rf_repro.evaluation import Progress, SceneEvaluation, requests, temporary_folder
from rf_repro.model.space import ImageSpace
from rf_repro.model.vae import KLAutoencoder, kl_divergence
from rf_repro.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from rf_repro.train.ema import Average
from rf_repro.train.optim import MasterOptimizer
from rf_repro.train.trainer import DTYPES, LOG_EVERY

DECAY_FRACTION = 0.5  # of the steps, over which the rate falls to zero in the end (assumed; 1.0 does as well)
CHUNK = 256  # images at a time where no gradient is needed
MIN_LATENT_STD = 1e-3  # below it a channel says nothing, and to normalise it is to magnify rounding


class VAETrainer:
    """Trains `config.model.vae`, as the one stage of `config`, on images held in memory.

    Args:
        images: uint8 [N, S, S, 3], the training images, on the CPU.
    """

    def __init__(self, config: ExperimentConfig, seed: int, device: torch.device, images: Tensor) -> None:
        self.config, self.settings, self.seed, self.device, self.images = config, config.model.vae, seed, device, images
        self.stage = replace(config.stages[-1], decay_fraction=DECAY_FRACTION)
        self.step, self.num_tokens, self.compute_seconds = 0, 0, 0.0  # tokens: latent cells trained on
        self.model = KLAutoencoder(self.settings)
        self.model.initialise(seed)
        # Statistics are not trained and stay float32: kept beside the model, whose buffers bf16 would round.
        self.statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.to(device)
        self.optimizer = MasterOptimizer(dict(self.model.named_parameters()), config.optim, self.stage)
        self.average = Average(self.optimizer.masters, config.optim.ema_decay, warm_up=True)
        self.model.to(DTYPES[config.optim.precision])

    def averaged_state(self) -> dict[str, Tensor]:
        """What users of the run load: averaged weights and latent statistics, float32 on the CPU."""
        return {**{name: tensor.cpu() for name, tensor in self.average.values.items()}, **self.statistics}

    def train_step(self) -> dict[str, float]:
        """One optimiser step on images drawn with replacement. Returns the loss and its terms.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; nothing was stepped.
        """
        step = self.step + 1
        generator = torch.Generator().manual_seed(derive_seed("vae", self.seed, step))
        drawn = torch.randint(len(self.images), (self.settings.batch_size,), generator=generator)
        images = to_images(self.images[drawn]).to(self.device)
        mean, log_variance = self.model.posterior(images)
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        decoded = self.model.reconstruct(mean + torch.exp(0.5 * log_variance) * noise)
        terms = {"reconstruction": F.mse_loss(decoded, images), "kl": kl_divergence(mean, log_variance).mean()}
        log = {f"loss/{name}": float(value.detach()) for name, value in terms.items()}
        for name, value in log.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"step {step}: {name} is {value}; lower model.vae.learning_rate")
        loss = terms["reconstruction"] + self.settings.kl_weight * terms["kl"]
        log["loss"] = float(loss.detach())
        loss.backward()
        log["grad_norm"] = self.optimizer.step(step)
        if not math.isfinite(log["grad_norm"]):
            raise TrainingDiverged(f"step {step}: the gradient norm is {log['grad_norm']}; lower model.vae.learning_rate")
        self.average.update(self.optimizer.masters, step)
        self.step = step
        self.num_tokens += mean.shape[0] * mean.shape[2] * mean.shape[3]
        return log

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """Mean and standard deviation of each latent channel over all training images, under the averaged weights.

        Raises:
            UserError: a channel is constant.
        """
        vae = KLAutoencoder(self.settings).to(self.device)
        vae.load_state_dict({**self.average.values, **self.statistics})
        sums = torch.zeros(2, self.settings.latent_channels, dtype=torch.float64, device=self.device)
        count = 0
        for images in self.images.split(CHUNK):
            mean, _ = vae.posterior(to_images(images.to(self.device)))
            values = mean.double().transpose(0, 1).flatten(1)
            sums += torch.stack([values.sum(1), values.square().sum(1)])
            count += values.shape[1]
        first, second = (sums / count).cpu()
        std = (second - first.square()).clamp(min=0).sqrt()
        if float(std.min()) < MIN_LATENT_STD:
            raise UserError(
                f"model.vae.kl_weight={self.settings.kl_weight}: latent channel {int(std.argmin())} collapsed (deviation "
                f"{float(std.min()):.1e} over the training images); choose a smaller one, or fewer model.vae.latent_channels"
            )
        self.statistics = {"latent_mean": first.float(), "latent_std": std.float()}

    def run(self, run: RunDir) -> None:
        """Trains to the stage's end from the run's last checkpoint, or from the start."""
        self.resume(run)
        rows: list[dict[str, float]] = []
        while self.step < self.stage.steps:
            start = self._clock()
            rows.append(self.train_step())
            is_last = self.step == self.stage.steps
            if is_last:
                self.measure_statistics()
            self.compute_seconds += self._clock() - start
            is_checkpoint = self.step % self.config.checkpoint_every == 0 or is_last
            if self.step % LOG_EVERY == 0 or is_checkpoint:
                append_jsonl(run.metrics_path, self._metrics_row(rows))
                rows = []
            if is_checkpoint:
                self.save(run)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _metrics_row(self, rows: list[dict[str, float]]) -> dict[str, float]:
        row: dict[str, float] = {"step": self.step}
        row |= {name: sum(item[name] for item in rows) / len(rows) for name in rows[0]}
        row["learning_rate"] = self.optimizer.learning_rate
        return {**row, "tokens": self.num_tokens, "compute_seconds": round(self.compute_seconds, 3)}

    def save(self, run: RunDir) -> None:
        """Writes a checkpoint of everything the next step depends on; the latents' statistics lie with the averages."""
        extra = {"num_tokens": self.num_tokens, "compute_seconds": self.compute_seconds}
        masters = {name: tensor.detach().cpu() for name, tensor in self.optimizer.masters.items()}
        saved = Checkpoint(self.step, masters, self.averaged_state(), self.optimizer.state_dict(), extra)
        save_checkpoint(run.checkpoints, saved)

    @torch.no_grad()
    def resume(self, run: RunDir) -> None:
        """Loads the last checkpoint, if there is one, and drops metrics after it.

        Raises:
            UserError: it is damaged or belongs to another model.
        """
        checkpoints = list_checkpoints(run.checkpoints)
        if not checkpoints:
            write_jsonl(run.metrics_path, [])
            return
        saved = load_checkpoint(checkpoints[-1])
        if set(saved.weights) != set(self.optimizer.masters) or set(saved.ema) != set(self.averaged_state()):
            raise UserError(f"{checkpoints[-1]}: holds another model's weights; delete the run directory to start again")
        for name, tensor in self.optimizer.masters.items():
            tensor.copy_(saved.weights[name])
        for name, tensor in self.average.values.items():
            tensor.copy_(saved.ema[name])
        self.statistics = {name: saved.ema[name] for name in self.statistics}
        self.optimizer.load_state_dict(saved.optimizer)
        self.optimizer.copy_to_model()
        self.step = saved.step
        self.num_tokens, self.compute_seconds = saved.extra["num_tokens"], saved.extra["compute_seconds"]
        write_jsonl(run.metrics_path, [row for row in run.metrics() if row["step"] <= self.step])


def train_vae(config: ExperimentConfig, run: RunDir, seed: int, device: torch.device, images: Tensor) -> VAETrainer:
    """Trains the VAE of a `stage-vae` run to its end, from where it stopped. See `VAETrainer` for what it raises."""
    trainer = VAETrainer(config, seed, device, images)
    trainer.run(run)
    return trainer


def load_vae(checkpoint: Path, config: VAEConfig) -> KLAutoencoder:
    """The frozen VAE of a finished `stage-vae` run: averaged weights, float32, on the CPU.

    Raises:
        UserError: the checkpoint is damaged, of an unfinished training (whose latents have no statistics yet), or of
            another architecture.
    """
    saved = load_checkpoint(checkpoint)
    if saved.step != config.steps:
        raise UserError(f"{checkpoint}: the VAE is trained to step {saved.step} of {config.steps}; finish its run first")
    vae = KLAutoencoder(config)
    own = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    if own != {name: tensor.shape for name, tensor in saved.ema.items()}:
        raise UserError(f"{checkpoint}: holds another VAE than model.vae describes; delete its run directory to train it again")
    vae.load_state_dict(saved.ema)
    return vae.eval().requires_grad_(False)


def evaluate_reconstruction(
    evaluation: SceneEvaluation, space: ImageSpace, run: RunDir, progress: Progress, device: torch.device
) -> None:
    """Gate of the VAE: GenEval of true renderings that went through `space` on `device`, by the way that generation takes.

    Recorded as `geneval-vae-reconstruction`; at least 0.97 of `geneval-ground-truth` is wanted.
    """
    if run.eval_result("geneval-vae-reconstruction") is not None:
        return
    wanted = requests(evaluation.world.benchmark(evaluation.config.evals.images_per_task))
    truth = torch.from_numpy(evaluation.ground_truth(wanted).images)
    chunks = [space.decode(space.encode(to_images(images.to(device)))) for images in truth.split(CHUNK)]
    with temporary_folder() as folder:
        evaluation.write_images(wanted, to_pixels(torch.cat(chunks)).cpu().numpy(), folder)
        evaluation.score(folder, run, "geneval-vae-reconstruction", progress, None, "rendered, through the VAE")
