"""One run from configuration to records: train, sample, evaluate. Every action whose record exists is done; killing it
anywhere loses at most the steps since the last checkpoint."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rf_repro.config.overrides import from_dict
from rf_repro.config.schema import ExperimentConfig, StageConfig, shared_stages
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.provenance import code_revision, library_versions, utc_now
from rf_repro.core.records import Attempt
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.data.mixture import SceneMixture
from rf_repro.data.packing import TextTokens
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.evaluation import (
    Request,
    SceneEvaluation,
    evaluate_curve,
    evaluate_final,
    evaluate_ground_truth,
    progress_writer,
)
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.sampler import Sampler
from rf_repro.train.checkpoint import list_checkpoints, load_weights
from rf_repro.train.trainer import DTYPES, Trainer


def resolve_device(name: str) -> torch.device:
    """`auto`: CUDA, else MPS, else the CPU. Raises UserError when the named one is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if name not in available:
        raise UserError(f"--device {name}: unknown; choose auto, {', '.join(available)}")
    if not available[name]:
        raise UserError(f"--device {name}: torch {torch.__version__} finds none here; use --device auto or cpu")
    return torch.device(name)


def run_stage(config: ExperimentConfig, *, variant: str, seed: int, runs: Path, device: str = "auto", threads: int = 1) -> RunDir:
    """Trains a shared stage, the last of `config.stages`, and checks the evaluator on true renderings.

    Args:
        config: one of `shared_stages`.
        variant: its run name, e.g. `stage-pretrain`.
        threads: of the CPU; results on a CPU depend on it in the last bits.
    """
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, variant, seed)
    if run.record().status == "done":
        return run
    with _attempt(run, config, resolve_device(device), threads) as torch_device:
        tokenizer = SceneTokenizer(config.data.scenes)
        trainer = Trainer(config, config.stages[-1], seed, torch_device, SceneMixture(config.data, tokenizer), tokenizer)
        trainer.run(run)
        evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
        evaluate_ground_truth(evaluation, run, progress_writer(run))
        _record_training(run, trainer, [])
    return run


def run_variant(
    config: ExperimentConfig,
    *,
    variant: str,
    seed: int,
    runs: Path,
    device: str = "auto",
    threads: int = 1,
    stage_seed: int = 0,
) -> RunDir:
    """Trains, samples and evaluates one variant, after the shared stages it starts from.

    Args:
        stage_seed: of the shared stages; a run started from other ones is refused.
    """
    stage = own_stage(config)
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, variant, seed)
    if run.record().status == "done":
        return run
    torch_device = resolve_device(device)
    start, started_from = _run_shared_stages(config, runs, device, threads, stage_seed)
    before = run.record().started_from
    if before not in ([], started_from):
        raise UserError(f"{run.path}: started from {', '.join(before)}, not {', '.join(started_from)}; choose another --runs")
    with _attempt(run, config, torch_device, threads):
        run.write_record(replace(run.record(), started_from=started_from))
        tokenizer = SceneTokenizer(config.data.scenes)
        evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
        trainer = Trainer(config, stage, seed, torch_device, SceneMixture(config.data, tokenizer), tokenizer, start)
        report = progress_writer(run)
        trainer.run(run, at_step=lambda step: evaluate_curve(evaluation, trainer, run, report))
        _record_training(run, trainer, started_from)
        evaluate_final(evaluation, trainer, run, report)
    return run


def own_stage(config: ExperimentConfig) -> StageConfig:
    """The one stage that a variant trains itself."""
    own = [stage for stage in config.stages if not stage.shared]
    if len(own) != 1:
        raise UserError(
            f"scale {config.scale!r}: stages {', '.join(s.name for s in own)} in a row cannot be trained by this version; "
            "choose tiny or smoke"
        )
    return own[0]


def _run_shared_stages(
    config: ExperimentConfig, runs: Path, device: str, threads: int, seed: int
) -> tuple[dict[str, Tensor] | None, list[str]]:
    """The last shared stage's averaged weights, training what is missing, and the names of the stages' runs."""
    weights, names = None, []
    for name, stage_config in shared_stages(config):
        run = RunDir.create(runs, stage_config.to_dict(), stage_config.result_hash(), config.scale, name, seed)
        if run.record().status != "done":
            with run_lock(run.path):
                run_stage(stage_config, variant=name, seed=seed, runs=runs, device=device, threads=threads)
        weights = load_weights(last_checkpoint(run), ema=True)
        names.append(f"{name}/{run.path.name}")
    return weights, names


def last_checkpoint(run: RunDir) -> Path:
    """Raises UserError when the run has none."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        raise UserError(f"{run.checkpoints}: no checkpoint; train the run first, or delete its directory to train it again")
    return checkpoints[-1]


@contextmanager
def _attempt(run: RunDir, config: ExperimentConfig, device: torch.device, threads: int) -> Iterator[torch.device]:
    """Records that a process works on the run, and how that ends."""
    torch.set_num_threads(threads)
    revision, dirty = code_revision()
    number = len(run.record().attempts)
    attempt = Attempt(
        utc_now(), socket.gethostname(), os.getpid(), _device_name(device), threads, os.environ.get("SLURM_JOB_ID"),
        int(run.metrics()[-1]["step"]) if run.metrics() else 0,
    )  # fmt: skip
    record = run.record()
    run.write_record(
        replace(
            record,
            status="running",
            revision=revision,
            dirty=dirty,
            versions=library_versions(),
            data_fingerprint=ScenesWorld(config.data.scenes).fingerprint,
            attempts=[*record.attempts, attempt],
        )
    )
    begin = time.monotonic()

    def end(status: str, error: str | None) -> None:
        record = run.record()
        attempts = list(record.attempts)
        attempts[number] = replace(attempts[number], seconds=round(time.monotonic() - begin, 1), error=error)
        run.write_record(replace(record, status=status, attempts=attempts))  # type: ignore[arg-type]

    try:
        yield device
    except BaseException as error:
        end("failed" if isinstance(error, Exception) else "planned", f"{type(error).__name__}: {error}")
        raise
    end("done", None)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _record_training(run: RunDir, trainer: Trainer, started_from: list[str]) -> None:
    parameters = {"total": sum(p.numel() for p in trainer.model.parameters())}
    for name, module in trainer.model.named_children():
        parameters[name] = sum(p.numel() for p in module.parameters())
    run.write_record(
        replace(
            run.record(),
            steps=trainer.step,
            tokens=trainer.num_tokens,
            compute_seconds=round(trainer.compute_seconds, 1),
            parameters=parameters,
            started_from=started_from,
        )
    )


def sample_prompts(
    run: RunDir,
    prompts: Sequence[str],
    num_samples: int,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageFolder:
    """Images of free prompts from a run's last checkpoint (averaged weights), into GenEval's folder layout.

    Raises:
        UserError: no checkpoint, a word the world does not know, or an output folder with other content.
    """
    config = from_dict(run.config())
    torch_device = resolve_device(device)
    tokenizer = SceneTokenizer(config.data.scenes)
    folder = ImageFolder(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another --out")
    wanted = [
        Request(i, k, {"tag": "free", "include": [], "prompt": prompt}, derive_seed("sample", seed, i, k))
        for i, prompt in enumerate(prompts)
        for k in range(num_samples)
    ]
    evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
    evaluation.text_ids(wanted)  # unknown words are refused before anything is loaded
    model = RFModel(config, tokenizer.vocab_size)
    model.load_state_dict(load_weights(last_checkpoint(run), ema=True))
    model = model.to(torch_device, DTYPES[config.optim.precision]).eval().requires_grad_(False)
    tokens = TextTokens(tokenizer.pad_id, tokenizer.bos_id, tokenizer.null_id)
    evaluation.sample(Sampler(model, config.sampling, tokens), wanted, folder, lambda phase, done, total: progress(done, total))
    return folder
