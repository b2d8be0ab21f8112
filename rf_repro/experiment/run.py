"""One run from configuration to records: train, sample, evaluate. Every action whose record exists is done; killing it
anywhere loses at most the steps since the last checkpoint, stopping it (`stop`) loses nothing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import assert_never

import torch

from rf_repro.compute.devices import resolve_device, trying
from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.prerequisites import Prerequisite, prerequisites, run_name, shared_runs
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.records import ACTIONS, Action
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.experiment.attempt import attempt, progress_writer, record_start, record_training
from rf_repro.experiment.load import image_space, last_checkpoint
from rf_repro.experiment.whole import before_sampling, before_scoring, before_training, evaluations, record_outputs
from rf_repro.model.space import ImageSpace
from rf_repro.model.vae import LatentSpace
from rf_repro.train.encoder_pretraining import EncoderPretraining, load_encoder
from rf_repro.train.loop import never
from rf_repro.train.start import Start
from rf_repro.train.trainer import Trainer
from rf_repro.train.vae_trainer import VAETrainer, load_vae
from rf_repro.worlds import Progress, world_of


def run_prerequisite(
    prerequisite: Prerequisite,
    *,
    seed: int,
    runs: Path,
    device: str = "auto",
    threads: int = 1,
    stage_seed: int = 0,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Completes one of `prerequisites`, after those it starts from: of an own stage its training, as a variant's is trained.

    Args:
        stage_seed: of the shared runs that a variant's own stage starts from; a shared one's is `seed`.
        threads: of the CPU; results on a CPU depend on it in the last bits.
        ranks: of a run trained by several processes, which all call this; the run directory exists then.
        stop: asked after every step and every batch of images.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
    """
    config, world = prerequisite.config, world_of(prerequisite.config)
    if prerequisite.is_own:
        return run_variant(
            config, variant=prerequisite.key, seed=seed, runs=runs, device=device, threads=threads, stage_seed=stage_seed,
            actions=["train"], ranks=ranks, stop=stop,
        )  # fmt: skip
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, prerequisite.name, seed)
    steps = config.stages[-1].steps
    if run.record().status == "done" and run.has_done("train", steps):
        return run
    before = [one for one in shared_runs(config) if one.name in prerequisite.after]
    done = complete(before, seeds=(seed, seed), runs=runs, device=device, threads=threads, stop=stop)
    torch_device = resolve_device(device)
    with attempt(run, config, torch_device, threads, ranks, "train"):
        space = image_space(config, by_kind(before, done), torch_device) if prerequisite.is_stage else None
        trainer = make_training(prerequisite, seed, torch_device, before, done, space, ranks)
        before_training(run, ranks=ranks)
        if ranks.is_first:
            record_start(run, trainer, started_from(done))
        trainer.run(run, stop=stop)
        if not ranks.is_first:
            return run
        report = progress_writer(run.progress_path, stop)
        match prerequisite.kind:
            case "encoder":
                assert isinstance(trainer, EncoderPretraining)
                world.check_encoder(trainer, run)
            case "vae":
                vae = load_vae(last_checkpoint(run), config.model.vae).to(torch_device)
                world.check_vae(config, LatentSpace(vae, config.model.vae.downsample), run, report, torch_device)
            case "stage":
                world.check_stage(config, run, report)
            case "own stage":
                raise AssertionError("trained above")
            case _:
                assert_never(prerequisite.kind)
        record_training(run, trainer, started_from(done), evaluations(run, on_the_way=False))
    return run


def make_training(
    prerequisite: Prerequisite,
    seed: int,
    device: torch.device,
    before: Sequence[Prerequisite],
    done: Mapping[str, RunDir],
    space: ImageSpace | None,
    ranks: Ranks,
) -> Trainer | EncoderPretraining | VAETrainer:
    """What trains a prerequisite, after those `before` it, of which all are `done` (by name)."""
    config, world = prerequisite.config, world_of(prerequisite.config)
    match prerequisite.kind:
        case "encoder":
            images, captions = world.component_data(config)
            with trying(device, ranks):
                return EncoderPretraining(config, seed, device, images, captions, world.tokenizer(config).vocab_size, ranks)
        case "vae":
            images, _ = world.component_data(config)
            with trying(device, ranks):
                return VAETrainer(config, seed, device, images, ranks)
        case "stage" | "own stage":
            start = start_of(before, done)
            return make_trainer(config, seed, device, start, pretrained_encoder(before, done, start), space, ranks)
    assert_never(prerequisite.kind)


def make_trainer(
    config: ExperimentConfig,
    seed: int,
    device: torch.device,
    start: Start | None,
    encoder: dict[str, torch.Tensor] | None,
    space: ImageSpace | None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """A trainer of the config's last stage, with its data."""
    stage, world = config.stages[-1], world_of(config)
    world.check_run(config)
    tokenizer = world.tokenizer(config)
    data = world.data(config, stage, seed, tokenizer, ranks, device)
    with trying(device, ranks):
        return Trainer(config, stage, seed, device, data, tokenizer, start, encoder, space, ranks)


def run_variant(
    config: ExperimentConfig,
    *,
    variant: str,
    seed: int,
    runs: Path,
    device: str = "auto",
    threads: int = 1,
    stage_seed: int = 0,
    actions: Sequence[str] = ACTIONS,
    init_from: RunDir | None = None,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = never,
) -> RunDir:
    """Trains, samples and evaluates one variant, after the stages it starts from.

    Args:
        variant: the row's key; the run is called as `run_name` says.
        stage_seed: of the shared stages; a run started from other ones is refused.
        actions: which of those its config has to do now; sampling and evaluation want the training done.
        init_from: a run whose averaged weights its last stage starts from instead of the stages before it.
        ranks, stop: as of `run_prerequisite`.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
        UserError: among others, an action before its turn.
    """
    stage, world = config.stages[-1], world_of(config)
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, run_name(variant, config), seed)
    wanted = [action for action in config.actions if action in actions]

    def open_actions() -> list[Action]:
        return [action for action in wanted if not run.has_done(action, stage.steps)]

    todo = open_actions()
    if not todo:
        return run
    torch_device = resolve_device(device)
    before = prerequisites(config, variant)
    if init_from is not None:
        before = [one for one in before if one.kind == "vae"]
    done = complete(before, seeds=(seed, stage_seed), runs=runs, device=device, threads=threads, stop=stop)
    names, start = started_from(done), start_of(before, done)
    if init_from is not None:
        start, names = Start(last_checkpoint(init_from)), [*names, f"{init_from.record().variant}/{init_from.path.name}"]
    earlier = run.record().started_from
    if earlier not in ([], names):
        raise UserError(f"{run.path}: started from {', '.join(earlier)}, not {', '.join(names)}; choose another --runs")
    action = "all" if len(todo) > 1 else todo[0]
    completes = all(one in wanted or run.has_done(one, stage.steps) for one in config.actions)
    with attempt(run, config, torch_device, threads, ranks, action, completes):
        space = image_space(config, by_kind(before, done), torch_device)
        encoder = pretrained_encoder(before, done, start)
        trainer = make_trainer(config, seed, torch_device, start, encoder, space, ranks)
        report = progress_writer(run.progress_path, stop)
        if "train" in todo:
            before_training(run, [piece.record for piece in world.pieces(config, None)], ranks)
            if ranks.is_first:
                record_start(run, trainer, names)
            trainer.run(run, at_step=lambda step: world.score_step(trainer, run, report), stop=stop)
            if ranks.is_first:
                record_training(run, trainer, names, evaluations(run, on_the_way=True))
        else:
            _load_trained(trainer, run)
        if ranks.is_first:
            _sample_and_evaluate(run, trainer, open_actions, report)
    return run


def _sample_and_evaluate(run: RunDir, trainer: Trainer, open_actions: Callable[[], list[Action]], report: Progress) -> None:
    """What is open of both, which is looked at anew: what came before may have set something aside."""
    world = world_of(trainer.config)
    if "sample" in open_actions():
        before_sampling(run)
        world.sample(trainer, run, report)
        record_outputs(run, "sample", [run.images.manifest_path])
    if "evaluate" in open_actions():
        before_scoring(run)
        world.evaluate(trainer, run, report)
        images = [run.images.manifest_path] if "sample" in trainer.config.actions else []
        record_outputs(run, "evaluate", [*images, *evaluations(run, on_the_way=False)])


def _load_trained(trainer: Trainer, run: RunDir) -> None:
    trainer.resume(run)
    if trainer.step < trainer.stage.steps:
        raise UserError(f"{run.path}: trained {trainer.step} of {trainer.stage.steps} steps; train it to the end first")


# Prerequisites


def complete(
    wanted: Sequence[Prerequisite], *, seeds: tuple[int, int], runs: Path, device: str, threads: int,
    stop: Callable[[], bool] = never,
) -> dict[str, RunDir]:  # fmt: skip
    """The runs by name, in order, training what is missing. `seeds`: of a variant's own stages, and of shared ones.

    Of an own stage its training counts: it may be a row of a table too, whose images and scores nothing here waits for.
    """
    done = {}
    for one in wanted:
        config, seed = one.config, seeds[0] if one.is_own else seeds[1]
        run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, one.name, seed)
        if not run.is_trained():
            with run_lock(run.path):
                run_prerequisite(one, seed=seed, runs=runs, device=device, threads=threads, stage_seed=seeds[1], stop=stop)
        done[one.name] = run
    return done


def by_kind(before: Sequence[Prerequisite], done: Mapping[str, RunDir]) -> dict[str, RunDir]:
    """Of components that are trained alone: kind -> run."""
    return {one.kind: done[one.name] for one in before if not one.is_stage}


def pretrained_encoder(
    before: Sequence[Prerequisite], done: Mapping[str, RunDir], start: Start | None
) -> dict[str, torch.Tensor] | None:
    """Weights of the encoder pretrained in-suite, for the first stage after it; a later one has those of its start."""
    pretrained = by_kind(before, done).get("encoder") if start is None else None
    return None if pretrained is None else load_encoder(last_checkpoint(pretrained))


def start_of(before: Sequence[Prerequisite], done: Mapping[str, RunDir]) -> Start | None:
    """Where the next stage starts: at the last of the stages before it; None where there is none."""
    stages = [one for one in before if one.is_stage]
    return Start(last_checkpoint(done[stages[-1].name]), continues=stages[-1].is_own) if stages else None


def started_from(runs: Mapping[str, RunDir]) -> list[str]:
    """Names of runs as records give them: `stage-pretrain/<hash12>-s<seed>`."""
    return [f"{name}/{run.path.name}" for name, run in runs.items()]
