"""The one training loop: of the model's stages, of the VAE, of an encoder's own pretraining. It steps, logs, checkpoints and
resumes; what a step's losses are, each of them says itself."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rf_repro.compute.arithmetic import DTYPES, arithmetic
from rf_repro.compute.devices import trying
from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError
from rf_repro.core.files import append_jsonl, write_jsonl
from rf_repro.core.run_dir import RunDir
from rf_repro.train.checkpoint import CheckpointReader, list_checkpoints, step_of
from rf_repro.train.checkpoint_writer import CheckpointWriter
from rf_repro.train.ema import Average
from rf_repro.train.optim import MasterOptimizer

LOG_EVERY = 25  # steps averaged in one row of metrics.jsonl


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True)
class StepLosses:
    """The terms of one step as means, unweighted, for the log; the weighted total to descend; the tokens it read.

    A step's may come in several parts, and each rank has its own: all together add up to the whole step's.
    """

    terms: dict[str, Tensor]
    total: Tensor
    num_tokens: int


class TrainingLoop(ABC):
    """A stage of training, on one device a rank. Randomness has no state: a step's draws follow from (seed, step).

    Every rank calls the same methods, and holds the same state after each step. The first alone writes files.

    Raises:
        UserError: several ranks, where a step cannot be shared out.
    """

    model: nn.Module
    optimizer: MasterOptimizer
    average: Average
    is_compiled = False  # whether layers are
    can_share = False  # whether several ranks can each take a part of a step

    def __init__(
        self, config: ExperimentConfig, stage: StageConfig, seed: int, device: torch.device, *, ranks: Ranks = ALONE
    ) -> None:
        if ranks.size > 1 and not self.can_share:
            raise UserError(f"{type(self).__name__}: {ranks.size} ranks; it is small and trains in one: run it with one task")
        self.config, self.stage, self.seed, self.device, self.ranks = config, stage, seed, device, ranks
        self.dtype = DTYPES[arithmetic(config.optim.precision, device, ranks)]  # of activations, and of the weights they meet
        self.step, self.num_tokens, self.compute_seconds = 0, 0, 0.0
        self._writer = CheckpointWriter(ranks)

    # What is trained

    @abstractmethod
    def losses(self, step: int) -> Iterable[StepLosses]:
        """The losses of the 1-based step, in one or more parts that add up to it; each part's gradient is made, and its
        activations are freed, before the next is asked for."""

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

    def extra_state(self) -> dict[str, Any]:
        """JSON-ready values that a checkpoint needs besides, the same on every rank. Every rank calls it."""
        return {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:  # noqa: B027 (a hook)
        """Takes back what `extra_state` gave, before `resumed`; {} of a checkpoint that has none."""

    def averaged_state(self) -> dict[str, Tensor]:
        """What users of the run load: the averaged weights; loaded in place."""
        return self.average.values

    def extra_metrics(self) -> dict[str, float]:
        """More columns of the row of metrics that is due."""
        return {}

    # The loop

    def train_step(self) -> dict[str, float]:
        """One optimiser step. Returns the loss, its terms and the gradient norm, of the whole step, on every rank.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; nothing was stepped.
        """
        step = self.step + 1
        seen, names, num_tokens = [], [], 0
        for part in self.losses(step):
            names, num_tokens = list(part.terms), num_tokens + part.num_tokens
            seen.append(torch.stack([value.detach().float() for value in (*part.terms.values(), part.total)]))
            if self.ranks.size == 1 or part.total.requires_grad:  # a rank may have no sample of what is trained
                part.total.backward()
        summed = torch.stack(seen).cpu().double().sum(0)  # on the CPU: MPS has no float64
        sums = torch.cat([summed, torch.tensor([float(num_tokens)], dtype=torch.float64)])
        self.ranks.sum_([sums])
        *means, total, tokens = sums.tolist()
        log = {f"loss/{name}": mean for name, mean in zip(names, means, strict=True)}
        for name, value in log.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"step {step}: {name} is {value}; lower the learning rate")
        log["loss"] = total
        log["grad_norm"] = self.optimizer.step(step)
        if not math.isfinite(log["grad_norm"]):
            raise TrainingDiverged(f"step {step}: the gradient norm is {log['grad_norm']}; lower the learning rate")
        self.average.update(self.masters(), step)
        self.stepped(step)
        self.step = step
        self.num_tokens += round(tokens)
        return log

    def run(self, run: RunDir, at_step: Callable[[int], None] | None = None, stop: Callable[[], bool] = never) -> None:
        """Trains to the stage's end from the run's last checkpoint, or from the start.

        Args:
            at_step: called by the first rank every `evals.every` steps and at the end, and again when a run is resumed at such
                a step: it is to record once, and does nothing where that is done. It may raise Stopped.
            stop: asked after every step. When one rank says so, all end with the checkpoint of this very step.

        Raises:
            Stopped: on every rank, after the checkpoint.
            TrainingDiverged, UserError: as of `train_step` and `resume`.
        """
        try:
            self._run(run, at_step, stop)
        finally:
            self.wait_for_checkpoint()

    def _run(self, run: RunDir, at_step: Callable[[int], None] | None, stop: Callable[[], bool]) -> None:
        with trying(self.device, self.ranks):
            is_resumed = self.resume(run)
            if not is_resumed:
                self.begin()
        if is_resumed and self._reach(at_step):
            raise self._stopped()
        rows: list[dict[str, float]] = []
        before = self.step
        while self.step < self.stage.steps:
            start = self._clock()
            with trying(self.device, self.ranks) if self.step == before else nullcontext():
                rows.append(self.train_step())
            is_last = self.step == self.stage.steps
            if is_last:
                self.finish()
            self.compute_seconds += self._clock() - start
            is_checkpoint = self.step % self.config.checkpoint_every == 0 or is_last
            stopped = self.ranks.any(stop())
            if self.step % LOG_EVERY == 0 or is_checkpoint or stopped:
                rows = self._log(run, rows)
            stopped = stopped or self._reach(at_step)
            if is_checkpoint or stopped:
                rows = self._log(run, rows)
                self.save(run)
            if stopped:
                raise self._stopped()

    def _reach(self, at_step: Callable[[int], None] | None) -> bool:
        """Lets the first rank do what is due at the present step; whether it was asked to stop meanwhile, on every rank."""
        every, is_last = self.config.evals.every, self.step == self.stage.steps
        if at_step is None or not (is_last or (every and self.step % every == 0)):
            return False
        stopped = False
        if self.ranks.is_first:
            try:
                at_step(self.step)
            except Stopped:  # raised again, on every rank, when the step is saved
                stopped = True
        return self.ranks.any(stopped)

    def _stopped(self) -> Stopped:
        return Stopped(f"step {self.step} of {self.stage.steps}: asked to stop; its checkpoint is saved")

    def _log(self, run: RunDir, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        """Appends the means of the steps since the last row, if there are any. Returns the steps that are left: none."""
        if rows:
            row = self._metrics_row(rows)
            if self.ranks.is_first:
                append_jsonl(run.metrics_path, row)
        return []

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
        """Writes a checkpoint of everything the next step depends on. Every rank goes on when it is there; where training is
        sharded, at once: it is there after the next `save` or `wait_for_checkpoint`."""
        extra = {"num_tokens": self.num_tokens, "compute_seconds": self.compute_seconds, "trainer": self.extra_state()}
        named = {"weights": self.state(), "ema": self.averaged_state(), "optimizer": self.optimizer.named_state()}
        self._writer.save(run.checkpoints, self.step, named, extra)

    def wait_for_checkpoint(self) -> None:
        """Returns when the last checkpoint is on disk. Raises UserError where it cannot be written."""
        self._writer.wait()

    @torch.no_grad()
    def resume(self, run: RunDir) -> bool:
        """Loads the last checkpoint, if there is one, and drops metrics after it. Returns whether there was one.

        Raises:
            UserError: it is damaged or belongs to another model, or the ranks see different ones.
        """
        checkpoints = list_checkpoints(run.checkpoints)
        seen = self.ranks.gather(torch.tensor([step_of(path) for path in checkpoints[-1:]] or [0])).tolist()
        if len(set(seen)) > 1:
            raise UserError(
                f"{run.checkpoints}: the ranks see different last steps ({', '.join(map(str, seen))}); is the folder shared by "
                "all nodes? A file system that was late needs nothing but another start"
            )
        if not checkpoints:
            if self.ranks.is_first:
                write_jsonl(run.metrics_path, [])
            return False
        saved = CheckpointReader(checkpoints[-1], ranks=self.ranks)
        moments = self.optimizer.named_state(saved.names("optimizer"))
        saved.fill({"weights": self.state(), "ema": self.averaged_state(), "optimizer": moments})
        self.step, extra = saved.step, saved.extra
        self.optimizer.copy_to_model()
        self.load_extra_state(extra.get("trainer", {}))
        self.resumed()
        self.num_tokens, self.compute_seconds = extra["num_tokens"], extra["compute_seconds"]
        if self.ranks.is_first:
            write_jsonl(run.metrics_path, [row for row in run.metrics() if row["step"] <= self.step])
        return True

    def resumed(self) -> None:  # noqa: B027 (a hook)
        """After a checkpoint was loaded: what is derived from the state follows it."""
