"""What a run's record says of each attempt at it: who worked, on what, from where, how it ended."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from rf_repro.compute.arithmetic import arithmetic
from rf_repro.compute.ranks import Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped
from rf_repro.core.files import write_text
from rf_repro.core.hub import cached_commit, split_revision
from rf_repro.core.outputs import digests
from rf_repro.core.provenance import code_revision, library_versions, utc_now
from rf_repro.core.records import Attempt
from rf_repro.core.run_dir import RunDir
from rf_repro.train.checkpoint import list_checkpoints, step_of
from rf_repro.train.loop import TrainingLoop
from rf_repro.worlds import Progress, world_of

PRETRAINED = ("decoder", "encoder", "vae", "tokenizer")  # among a record's versions


@contextmanager
def attempt(
    run: RunDir, config: ExperimentConfig, device: torch.device, threads: int, ranks: Ranks, action: str, completes: bool = True
) -> Iterator[None]:
    """Records that a job works on the run, and how that ends; `completes`: with it the run is done."""
    torch.set_num_threads(threads)
    used = arithmetic(config.optim.precision, device, ranks)
    if not ranks.is_first:
        yield
        return
    run.remove_leftovers()
    revision, dirty = code_revision()
    number = len(run.record().attempts)
    from_step = max((step_of(path) for path in list_checkpoints(run.checkpoints)), default=0)
    begun = replace(new_attempt(action, device, threads, used), from_step=from_step, ranks=ranks.size)
    record = run.record()
    run.write_record(
        replace(
            record,
            status="running",
            revision=revision,
            dirty=dirty,
            versions=library_versions() | {name: text for name, text in record.versions.items() if name in PRETRAINED},
            data_fingerprint=world_of(config).fingerprint(config),
            attempts=[*record.attempts, begun],
        )
    )
    begin = time.monotonic()

    def end(status: str, error: str | None) -> None:
        record = run.record()
        attempts = list(record.attempts)
        attempts[number] = replace(attempts[number], seconds=round(time.monotonic() - begin, 1), error=error)
        run.write_record(replace(record, status=status, attempts=attempts))  # type: ignore[arg-type]

    try:
        yield
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        end("failed" if failed else "planned", f"{type(error).__name__}: {error}")
        raise
    end("done" if completes else "planned", None)


def new_attempt(action: str, device: torch.device, threads: int, used: str) -> Attempt:
    """One that begins here and now. `used`: the arithmetic."""
    who = socket.gethostname(), os.getpid(), _device_name(device), threads, _slurm_job_id()
    return Attempt(utc_now(), *who, action=action, arithmetic=used)


def record_start(run: RunDir, trainer: TrainingLoop, started_from: list[str]) -> None:
    """What is about to be trained from, and how, in the attempt that has just begun."""
    record = run.record()
    attempts = [*record.attempts[:-1], replace(record.attempts[-1], compiled=trainer.is_compiled)]
    versions = record.versions | _commits(trainer.config)
    run.write_record(replace(record, started_from=started_from, versions=versions, attempts=attempts))


def _commits(config: ExperimentConfig) -> dict[str, str]:
    """Which commit each model of the hub is of, `organisation/name@commit`; a folder's weights are its owner's to name."""
    model = config.model
    sources = (model.decoder.pretrained, model.encoder.pretrained, model.vae.pretrained, config.data.tokenizer)
    found = {name: (source, cached_commit(source)) for name, source in zip(PRETRAINED, sources, strict=True)}
    return {name: f"{split_revision(source)[0]}@{commit}" for name, (source, commit) in found.items() if commit}


def record_training(run: RunDir, trainer: TrainingLoop, started_from: list[str], evals: Iterable[Path] = ()) -> None:
    """What was trained: steps, tokens, seconds, parameters in all and of each part; and the files that it left.

    Args:
        evals: those of the evaluations that belong to it.
    """
    model = trainer.model
    parameters = {"total": sum(p.numel() for p in model.parameters())}
    for name, module in model.named_children():
        parameters[name] = sum(p.numel() for p in module.parameters())
    record = run.record()
    state = list_checkpoints(run.checkpoints)[-1] / "state.json"
    run.write_record(
        replace(
            record,
            outputs={**record.outputs, "train": digests(run.path, [run.metrics_path, state, *evals])},
            steps=trainer.step,
            tokens=trainer.num_tokens,
            compute_seconds=round(trainer.compute_seconds, 1),
            parameters=parameters,
            started_from=started_from,
        )
    )


def progress_writer(path: Path, stop: Callable[[], bool]) -> Progress:
    """Keeps a `progress.json` up to date, for whoever watches it; ends the work with `Stopped` when `stop` says so."""

    def write(phase: str, done: int, total: int) -> None:
        if stop():
            raise Stopped(f"{phase} {done}/{total}: asked to stop")
        write_text(path, json.dumps({"phase": phase, "done": done, "total": total}), durable=False)

    return write


def _slurm_job_id() -> str | None:
    """As SLURM's commands take it: `123`, or `123_4` for an element of an array, whose raw id names it alone nowhere else."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
