"""One run from configuration to records: train, sample, evaluate. Every action whose record exists is done; killing it
anywhere loses at most the steps since the last checkpoint, stopping it (`stop`) loses nothing."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from rf_repro.compute.arithmetic import arithmetic
from rf_repro.compute.devices import resolve_device, trying
from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.prerequisites import Prerequisite, prerequisites
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.hashing import content_hash
from rf_repro.core.provenance import code_revision, library_versions, utc_now
from rf_repro.core.records import ACTIONS, Action, Attempt
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.data.scenes.mixture import SceneMixture
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.model.latent_cache import CachedAutoencoder
from rf_repro.model.space import ImageSpace, PixelSpace
from rf_repro.model.vae import KLAutoencoder, LatentSpace, WanAutoencoder
from rf_repro.train.checkpoint import list_checkpoints, step_of
from rf_repro.train.encoder_pretraining import EncoderPretraining, load_encoder, pretrain_encoder
from rf_repro.train.loop import never
from rf_repro.train.trainer import Start, Trainer
from rf_repro.train.vae_trainer import VAETrainer, evaluate_reconstruction, load_vae, train_vae
from rf_repro.worlds.scenes.evaluation import (
    SceneEvaluation,
    evaluate_curve,
    evaluate_final,
    evaluate_ground_truth,
    progress_writer,
    sample_benchmark,
)

AnyTrainer = Trainer | EncoderPretraining | VAETrainer


def run_prerequisite(
    shared: Prerequisite,
    *,
    seed: int,
    runs: Path,
    device: str = "auto",
    threads: int = 1,
    stage_seed: int = 0,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Completes one of `prerequisites`, after those it starts from.

    Args:
        stage_seed: of the shared stages that a variant's own stage starts from; a shared stage's is `seed`.
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
    before = [one for one in prerequisites(config) if one.name in shared.after]
    seeds = (seed, stage_seed if shared.is_own else seed)
    done = complete(before, seeds=seeds, runs=runs, device=device, threads=threads, stop=stop)
    with _attempt(run, config, resolve_device(device), threads, ranks, "train") as torch_device:
        trainer: AnyTrainer
        if shared.kind == "encoder":
            tokenizer = SceneTokenizer(config.data.scenes)
            trainer = pretrain_encoder(config, run, seed, torch_device, SceneMixture(config.data, tokenizer), tokenizer, stop)
        elif shared.kind == "vae":
            tokenizer = SceneTokenizer(config.data.scenes)
            trainer = train_vae(config, run, seed, torch_device, SceneMixture(config.data, tokenizer).images, stop)
            cells = LatentSpace(_frozen_vae(config, run, torch_device), config.model.vae.downsample)
            evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), tokenizer)
            evaluate_reconstruction(evaluation, cells, run, progress_writer(run, stop), torch_device)
        else:
            encoder = load_encoder(last_checkpoint(done["stage-encoder"])) if "stage-encoder" in done else None
            start = start_of(before, done)
            space = image_space(config, done, torch_device)
            trainer = make_trainer(config, seed, torch_device, start, encoder, space, ranks)
            trainer.run(run, stop=stop)
            if ranks.is_first and config.data.world == "scenes":
                evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), SceneTokenizer(config.data.scenes))
                evaluate_ground_truth(evaluation, run, progress_writer(run, stop))
        if ranks.is_first:
            _record_training(run, trainer, started_from(done))
    return run


def make_trainer(
    config: ExperimentConfig,
    seed: int,
    device: torch.device,
    start: Start | None,
    encoder: dict[str, torch.Tensor] | None,
    space: ImageSpace,
    ranks: Ranks,
) -> Trainer:
    """A trainer of the config's last stage, with its data."""
    stage = config.stages[-1]
    if config.data.world == "scenes":
        if config.parallel.sharding != "none":
            raise UserError("parallel.sharding=fsdp: models of the scenes world are sampled as they train; use none")
        tokenizer = SceneTokenizer(config.data.scenes)
        mixture = SceneMixture(config.data, tokenizer)
        with trying(device, ranks):
            return Trainer(config, stage, seed, device, mixture, tokenizer, start, encoder, space, ranks)
    from rf_repro.data.image_text import ImageTextData, streams_of
    from rf_repro.data.text_tokenizer import ImageTextTokenizer

    words = ImageTextTokenizer.from_config(config)
    data = ImageTextData(config, stage, seed, words, streams_of(ranks.rank, ranks.size, stage.packs_per_step))
    with trying(device, ranks):
        return Trainer(config, stage, seed, device, data, words, start, encoder, space, ranks)


def start_of(before: Sequence[Prerequisite], done: Mapping[str, RunDir]) -> Start | None:
    """Where the next stage starts: at the last of the stages before it; None where there is none."""
    stages = [one for one in before if one.is_stage]
    return Start(last_checkpoint(done[stages[-1].name]), continues=stages[-1].is_own) if stages else None


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
    init_from: RunDir | None = None,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Trains, samples and evaluates one variant, after the stages it starts from.

    Args:
        stage_seed: of the shared stages; a run started from other ones is refused.
        actions: which of those its config has to do now; sampling and evaluation want the training done.
        init_from: a run whose averaged weights its last stage starts from instead of the stages before it.
        ranks, stop: as of `run_prerequisite`.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
        UserError: among others, an action before its turn.
    """
    stage = config.stages[-1]
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, variant, seed)
    actions = [action for action in config.actions if action in actions and not run.has_done(action, stage.steps)]
    if not actions:
        return run
    torch_device = resolve_device(device)
    before = prerequisites(config)
    if init_from is not None:
        before = [one for one in before if one.kind == "vae"]
    shared = complete(before, seeds=(seed, stage_seed), runs=runs, device=device, threads=threads, stop=stop)
    names = started_from(shared)
    start = start_of(before, shared)
    if init_from is not None:
        start, names = Start(last_checkpoint(init_from)), [*names, f"{init_from.record().variant}/{init_from.path.name}"]
    earlier = run.record().started_from
    if earlier not in ([], names):
        raise UserError(f"{run.path}: started from {', '.join(earlier)}, not {', '.join(names)}; choose another --runs")
    action: Action | Literal["all"] = "all" if len(actions) > 1 else actions[0]
    with _attempt(run, config, torch_device, threads, ranks, action, config.actions[-1] in actions):
        trainer = make_trainer(config, seed, torch_device, start, None, image_space(config, shared, torch_device), ranks)
        report = progress_writer(run, stop)
        at_step = None
        if config.data.world == "scenes":
            evaluation = SceneEvaluation(config, ScenesWorld(config.data.scenes), SceneTokenizer(config.data.scenes))

            def at_step(step: int) -> None:
                evaluate_curve(evaluation, trainer, run, report)

        if "train" in actions:
            if ranks.is_first:
                run.write_record(replace(run.record(), started_from=names))
            trainer.run(run, at_step=at_step, stop=stop)
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


def image_space(config: ExperimentConfig, shared: Mapping[str, RunDir], device: torch.device) -> ImageSpace:
    """What the generation tokens of a config hold; `shared` holds the run of its VAE, where it was trained in-suite."""
    if config.model.pixel.space != "vae":
        return PixelSpace(config.model.pixel.patch_size)
    if config.model.vae.kind == "wan":
        vae = WanAutoencoder(config.model.vae).to(device)
        cache = config.model.vae.latent_cache
        return LatentSpace(CachedAutoencoder(vae, Path(cache)) if cache else vae, config.model.pixel.patch_size)
    return LatentSpace(_frozen_vae(config, shared["stage-vae"], device), config.model.pixel.patch_size)


def _frozen_vae(config: ExperimentConfig, run: RunDir, device: torch.device) -> KLAutoencoder:
    return load_vae(last_checkpoint(run), config.model.vae).to(device)


def complete(
    wanted: Sequence[Prerequisite], *, seeds: tuple[int, int], runs: Path, device: str, threads: int,
    stop: Callable[[], bool] = never,
) -> dict[str, RunDir]:  # fmt: skip
    """The runs by name, in order, training what is missing. `seeds`: of a variant's own stages, and of shared ones."""
    done = {}
    for shared in wanted:
        config, seed = shared.config, seeds[0] if shared.is_own else seeds[1]
        run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, shared.name, seed)
        if run.record().status != "done":
            with run_lock(run.path):
                run_prerequisite(shared, seed=seed, runs=runs, device=device, threads=threads, stage_seed=seeds[1], stop=stop)
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
    used = arithmetic(config.optim.precision, device, ranks)
    if not ranks.is_first:
        yield device
        return
    run.remove_leftovers()
    revision, dirty = code_revision()
    number = len(run.record().attempts)
    attempt = Attempt(
        utc_now(), socket.gethostname(), os.getpid(), _device_name(device), threads, _slurm_job_id(),
        from_step=max((step_of(path) for path in list_checkpoints(run.checkpoints)), default=0), action=action, ranks=ranks.size,
        arithmetic=used,
    )  # fmt: skip
    record = run.record()
    run.write_record(
        replace(
            record,
            status="running",
            revision=revision,
            dirty=dirty,
            versions=library_versions(),
            data_fingerprint=data_fingerprint(config),
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


def data_fingerprint(config: ExperimentConfig) -> str:
    """Of what a config trains on: the scenes, or every source's shards."""
    if config.data.world == "scenes":
        return ScenesWorld(config.data.scenes).fingerprint
    from rf_repro.data.shards import fingerprint

    return content_hash({source.name: fingerprint(source) for source in config.data.sources})


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
