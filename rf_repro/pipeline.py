"""One run from configuration to records: train, sample, evaluate. Every action whose record exists is done; killing it
anywhere loses at most the steps since the last checkpoint, stopping it (`stop`) loses nothing."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from rf_repro.config.overrides import from_dict
from rf_repro.config.schema import ExperimentConfig, StageConfig
from rf_repro.config.shared import SharedRun, shared_runs
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.provenance import code_revision, library_versions, utc_now
from rf_repro.core.records import ACTIONS, Action, Attempt
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
    sample_benchmark,
)
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.model.vae import KLAutoencoder, LatentSpace, WanAutoencoder
from rf_repro.sample.sampler import Sampler
from rf_repro.train.checkpoint import list_checkpoints, load_weights, step_of
from rf_repro.train.encoder_pretraining import EncoderPretraining, load_encoder, pretrain_encoder
from rf_repro.train.loop import never
from rf_repro.train.ranks import ALONE, Ranks
from rf_repro.train.trainer import DTYPES, Trainer
from rf_repro.train.vae_trainer import VAETrainer, evaluate_reconstruction, load_vae, train_vae

AnyTrainer = Trainer | EncoderPretraining | VAETrainer


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


def run_shared(
    shared: SharedRun,
    *,
    seed: int,
    runs: Path,
    device: str = "auto",
    threads: int = 1,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Completes one of `shared_runs`, after those it starts from.

    Args:
        threads: of the CPU; results on a CPU depend on it in the last bits.
        ranks: of a run trained by several processes, which all call this; the run directory exists then.
        stop: asked after every step and every batch of images.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
    """
    config = shared.config
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, shared.name, seed)
    if run.record().status == "done":
        return run
    before = [one for one in shared_runs(config) if one.name in shared.after]
    done = complete_shared(before, seed=seed, runs=runs, device=device, threads=threads, stop=stop)
    with _attempt(run, config, resolve_device(device), threads, ranks, "train") as torch_device:
        tokenizer = SceneTokenizer(config.data.scenes)
        mixture = SceneMixture(config.data, tokenizer)
        evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
        report = progress_writer(run, stop)
        trainer: AnyTrainer
        if shared.name == "stage-encoder":
            trainer = pretrain_encoder(config, run, seed, torch_device, mixture, tokenizer, stop)
        elif shared.name == "stage-vae":
            trainer = train_vae(config, run, seed, torch_device, mixture.images, stop)
            space = LatentSpace(_frozen_vae(config, run, torch_device), config.model.vae.downsample)
            evaluate_reconstruction(evaluation, space, run, report, torch_device)
        else:
            encoder = load_encoder(last_checkpoint(done["stage-encoder"])) if "stage-encoder" in done else None
            trainer = Trainer(config, config.stages[-1], seed, torch_device, mixture, tokenizer, encoder=encoder, ranks=ranks)
            trainer.run(run, stop=stop)
            if ranks.is_first:
                evaluate_ground_truth(evaluation, run, report)
        if ranks.is_first:
            _record_training(run, trainer, started_from(done))
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
    actions: Sequence[Action] = ACTIONS,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Trains, samples and evaluates one variant, after the shared stages it starts from.

    Args:
        stage_seed: of the shared stages; a run started from other ones is refused.
        actions: which of the three to do now; sampling and evaluation want the training done.
        ranks, stop: as of `run_shared`.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
        UserError: among others, an action before its turn.
    """
    stage = own_stage(config)
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, variant, seed)
    actions = [action for action in actions if not run.has_done(action, stage.steps)]
    if not actions:
        return run
    torch_device = resolve_device(device)
    shared = complete_shared(shared_runs(config), seed=stage_seed, runs=runs, device=device, threads=threads, stop=stop)
    before, names = run.record().started_from, started_from(shared)
    if before not in ([], names):
        raise UserError(f"{run.path}: started from {', '.join(before)}, not {', '.join(names)}; choose another --runs")
    stages = [f"stage-{one.name}" for one in config.stages if one.shared]
    start = load_weights(last_checkpoint(shared[stages[-1]]), ema=True) if stages else None
    with _attempt(run, config, torch_device, threads, ranks, "all" if len(actions) > 1 else actions[0], "evaluate" in actions):
        tokenizer = SceneTokenizer(config.data.scenes)
        evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
        mixture, space = SceneMixture(config.data, tokenizer), image_space(config, shared, torch_device)
        trainer = Trainer(config, stage, seed, torch_device, mixture, tokenizer, start, space=space, ranks=ranks)
        report = progress_writer(run, stop)
        if "train" in actions:
            if ranks.is_first:
                run.write_record(replace(run.record(), started_from=names))
            trainer.run(run, at_step=lambda step: evaluate_curve(evaluation, trainer, run, report), stop=stop)
            if ranks.is_first:
                _record_training(run, trainer, names)
        else:
            _load_trained(trainer, run)
        if "sample" in actions and ranks.is_first:
            sample_benchmark(evaluation, trainer, run, report)
        if "evaluate" in actions and ranks.is_first:
            evaluate_final(evaluation, trainer, run, report)
    return run


def _load_trained(trainer: Trainer, run: RunDir) -> None:
    trainer.resume(run)
    if trainer.step < trainer.stage.steps:
        raise UserError(f"{run.path}: trained {trainer.step} of {trainer.stage.steps} steps; train it to the end first")


def own_stage(config: ExperimentConfig) -> StageConfig:
    """The one stage that a variant trains itself."""
    own = [stage for stage in config.stages if not stage.shared]
    if len(own) != 1:
        raise UserError(
            f"scale {config.scale!r}: stages {', '.join(s.name for s in own)} in a row cannot be trained by this version; "
            "choose tiny or smoke"
        )
    return own[0]


def image_space(config: ExperimentConfig, shared: Mapping[str, RunDir], device: torch.device) -> ImageSpace:
    """What the generation tokens of a config hold; `shared` holds the run of its VAE, where it was trained in-suite."""
    if config.model.pixel.space != "vae":
        return PixelSpace(config.model.pixel.patch_size)
    if config.model.vae.kind == "wan":
        return LatentSpace(WanAutoencoder(config.model.vae).to(device), config.model.pixel.patch_size)
    return LatentSpace(_frozen_vae(config, shared["stage-vae"], device), config.model.pixel.patch_size)


def _frozen_vae(config: ExperimentConfig, run: RunDir, device: torch.device) -> KLAutoencoder:
    return load_vae(last_checkpoint(run), config.model.vae).to(device)


def complete_shared(
    wanted: Sequence[SharedRun], *, seed: int, runs: Path, device: str, threads: int, stop: Callable[[], bool] = never
) -> dict[str, RunDir]:
    """The shared runs by name, in order, training what is missing."""
    done = {}
    for shared in wanted:
        config = shared.config
        run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, shared.name, seed)
        if run.record().status != "done":
            with run_lock(run.path):
                run_shared(shared, seed=seed, runs=runs, device=device, threads=threads, stop=stop)
        done[shared.name] = run
    return done


def started_from(runs: dict[str, RunDir]) -> list[str]:
    """Names of shared runs as records give them: `stage-pretrain/<hash12>-s<seed>`."""
    return [f"{name}/{run.path.name}" for name, run in runs.items()]


def last_checkpoint(run: RunDir) -> Path:
    """Raises UserError when the run has none."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        raise UserError(f"{run.checkpoints}: no checkpoint; train the run first, or delete its directory to train it again")
    return checkpoints[-1]


@contextmanager
def _attempt(
    run: RunDir, config: ExperimentConfig, device: torch.device, threads: int, ranks: Ranks, action: str, completes: bool = True
) -> Iterator[torch.device]:
    """Records that a job works on the run, and how that ends; `completes`: with it the run is done."""
    torch.set_num_threads(threads)
    if not ranks.is_first:
        yield device
        return
    revision, dirty = code_revision()
    number = len(run.record().attempts)
    attempt = Attempt(
        utc_now(), socket.gethostname(), os.getpid(), _device_name(device), threads, _slurm_job_id(),
        from_step=max((step_of(path) for path in list_checkpoints(run.checkpoints)), default=0), action=action, ranks=ranks.size,
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
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        end("failed" if failed else "planned", f"{type(error).__name__}: {error}")
        raise
    end("done" if completes else "planned", None)


def _slurm_job_id() -> str | None:
    """As SLURM's commands take it: `123`, or `123_4` for an element of an array, whose raw id names it alone nowhere else."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _record_training(run: RunDir, trainer: AnyTrainer, names: list[str]) -> None:
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
            started_from=names,
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
    root = run.path.parents[1]  # of the runs of this scale
    shared = {name.split("/")[0]: RunDir(root / name) for name in run.record().started_from}
    space = image_space(config, shared, torch_device)
    evaluation.sample(
        Sampler(model, space, config.sampling, tokens), wanted, folder, lambda phase, done, total: progress(done, total)
    )
    return folder
