"""The one training loop: of the model's stages, of the VAE, of an encoder's own pretraining. It steps, logs, checkpoints and
resumes; what a step's losses are, each of them says itself."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.run_dir import RunDir
from rf_repro.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from rf_repro.train.ema import Average
from rf_repro.train.optim import MasterOptimizer

LOG_EVERY = 25  # steps averaged in one row of metrics.jsonl

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class StepLosses:
    """The terms of one step as means, unweighted, for the log; the weighted total to descend; the tokens it read."""

    terms: dict[str, Tensor]
    total: Tensor
    num_tokens: int


class TrainingLoop(ABC):
    """A stage of training on one device. Randomness has no state: a step's draws follow from (seed, step)."""

    optimizer: MasterOptimizer
    average: Average

    def __init__(self, config: ExperimentConfig, stage: StageConfig, seed: int, device: torch.device) -> None:
        self.config, self.stage, self.seed, self.device = config, stage, seed, device
        self.step, self.num_tokens, self.compute_seconds = 0, 0, 0.0

    # What is trained

    @abstractmethod
    def losses(self, step: int) -> StepLosses:
        """The losses of the 1-based step."""

    def begin(self) -> None:  # noqa: B027 (a hook)
        """Before the first step of a run; not when it is resumed."""

    def stepped(self, step: int) -> None:  # noqa: B027 (a hook)
        """After the optimiser's step and the averages' update."""

    def finish(self) -> None:  # noqa: B027 (a hook)
        """After the last step, before its checkpoint."""

    def masters(self) -> dict[str, Tensor]:
        """The float32 weights that are averaged, by name."""
        return self.optimizer.masters

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides averages and the optimiser's own state; loaded in place."""
        return dict(self.optimizer.masters)

    def averaged_state(self) -> dict[str, Tensor]:
        """What users of the run load: the averaged weights; loaded in place."""
        return self.average.values

    def extra_metrics(self) -> dict[str, float]:
        """More columns of the row of metrics that is due."""
        return {}

    # The loop

    def train_step(self) -> dict[str, float]:
        """One optimiser step. Returns the loss and its terms.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; nothing was stepped.
        """
        step = self.step + 1
        losses = self.losses(step)
        log = {f"loss/{name}": float(term.detach()) for name, term in losses.terms.items()}
        for name, value in log.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"step {step}: {name} is {value}; lower the learning rate")
        log["loss"] = float(losses.total.detach())
        losses.total.backward()
        log["grad_norm"] = self.optimizer.step(step)
        if not math.isfinite(log["grad_norm"]):
            raise TrainingDiverged(f"step {step}: the gradient norm is {log['grad_norm']}; lower the learning rate")
        self.average.update(self.masters(), step)
        self.stepped(step)
        self.step = step
        self.num_tokens += losses.num_tokens
        return log

    def run(self, run: RunDir, at_step: Callable[[int], None] | None = None) -> None:
        """Trains to the stage's end from the run's last checkpoint, or from the start.

        Args:
            at_step: called before each checkpoint and at the end; what it records is recorded once, because the
                checkpoint follows it.
        """
        if not self.resume(run):
            self.begin()
        rows: list[dict[str, float]] = []
        every, evaluate = self.config.checkpoint_every, self.config.evals.every
        while self.step < self.stage.steps:
            start = self._clock()
            rows.append(self.train_step())
            is_last = self.step == self.stage.steps
            if is_last:
                self.finish()
            self.compute_seconds += self._clock() - start
            is_checkpoint = self.step % every == 0 or is_last
            if self.step % LOG_EVERY == 0 or is_checkpoint:
                append_jsonl(run.metrics_path, self._metrics_row(rows))
                rows = []
            if at_step is not None and ((evaluate and self.step % evaluate == 0) or is_last):
                at_step(self.step)
            if is_checkpoint:
                self.save(run)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _metrics_row(self, rows: list[dict[str, float]]) -> dict[str, float]:
        row: dict[str, float] = {"step": self.step}
        row |= {name: sum(item[name] for item in rows) / len(rows) for name in rows[0]}
        row |= {"learning_rate": self.optimizer.learning_rate, **self.extra_metrics()}
        return {**row, "tokens": self.num_tokens, "compute_seconds": round(self.compute_seconds, 3)}

    # Checkpoints

    def save(self, run: RunDir) -> None:
        """Writes a checkpoint of everything the next step depends on."""
        extra = {"num_tokens": self.num_tokens, "compute_seconds": self.compute_seconds}
        state = {name: tensor.detach().cpu() for name, tensor in self.state().items()}
        averages = {name: tensor.cpu() for name, tensor in self.averaged_state().items()}
        save_checkpoint(run.checkpoints, Checkpoint(self.step, state, averages, self.optimizer.state_dict(), extra))

    @torch.no_grad()
    def resume(self, run: RunDir) -> bool:
        """Loads the last checkpoint, if there is one, and drops metrics after it. Returns whether there was one.

        Raises:
            UserError: it is damaged or belongs to another model.
        """
        checkpoints = list_checkpoints(run.checkpoints)
        if not checkpoints:
            write_jsonl(run.metrics_path, [])
            return False
        saved = load_checkpoint(checkpoints[-1])
        for own, held in ((self.state(), saved.weights), (self.averaged_state(), saved.ema)):
            if set(own) != set(held):
                raise UserError(f"{checkpoints[-1]}: holds another model's weights; delete the run directory to start again")
            for name, tensor in own.items():
                tensor.copy_(held[name])
        self.optimizer.load_state_dict(saved.optimizer)
        self.optimizer.copy_to_model()
        self.resumed()
        self.step = saved.step
        self.num_tokens, self.compute_seconds = saved.extra["num_tokens"], saved.extra["compute_seconds"]
        write_jsonl(run.metrics_path, [row for row in run.metrics() if row["step"] <= self.step])
        return True

    def resumed(self) -> None:  # noqa: B027 (a hook)
        """After a checkpoint was loaded: what is derived from the state follows it."""
