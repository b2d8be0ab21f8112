"""Whether runs fit their GPUs; where one does not, by how much, and what would mend it, each remedy computed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from rf_repro.config.overrides import apply_overrides
from rf_repro.core.errors import UserError
from rf_repro.estimate.gpus import GPUS
from rf_repro.estimate.plan import RunEstimate, StageEstimate, estimate_stage

MIN_TOKENS = 4096  # of a pack, below which no remedy is looked for
Settings = dict[str, Any]  # dotted path -> value


@dataclass(frozen=True)
class Remedy:
    """Options of `rf-repro estimate` to change: the number of GPUs, their kind, or settings."""

    gpus: int = 0  # 0: as many as now
    gpu: str = ""  # "": the kind of now
    settings: Settings = field(default_factory=dict)

    def __str__(self) -> str:
        settings = [f"--set {path}={str(value).lower()}" for path, value in self.settings.items()]
        options = [f"--gpus {self.gpus}"] * bool(self.gpus) + [f"--gpu {self.gpu}"] * bool(self.gpu)
        return " ".join(options + settings)

    def applied(self, estimate: StageEstimate) -> StageEstimate:
        """The estimate with the changes. Raises UserError where they make a step impossible."""
        # A shared run's config ends with its own stage, so what is said of later ones is not for it.
        present = {stage.name for stage in estimate.config.stages}
        settings = {p: value for p, value in self.settings.items() if p[:7] != "stages." or p.split(".")[1] in present}
        config, now = apply_overrides(estimate.config, settings), estimate.cluster
        cluster = replace(now, gpus=self.gpus or now.gpus, gpu=GPUS[self.gpu or now.gpu.name])
        # No setting here changes the model, so its parameters are not counted again.
        return estimate_stage(config, config.stage(estimate.stage.name), cluster, estimate.parameters)


def check_fits(runs: Sequence[RunEstimate]) -> None:
    """Raises UserError where a stage needs more memory than a GPU has: by how much, for what, and what mends it."""
    run, worst = max(((run, stage) for run in runs for stage in run.stages), key=lambda pair: pair[1].missing)
    if not worst.missing:
        return
    memory, gpu = worst.memory, worst.cluster.gpu
    largest = sorted(memory.at_peak.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name.replace('_', ' ')} {size / 1e9:,.1f}" for name, size in largest)
    found = [str(remedy) for remedy in remedies([stage for run in runs for stage in run.stages])]
    advice = f"it fits with: {'; or '.join(found)}" if found else "no setting or kind of GPU mends it; make the model smaller"
    raise UserError(
        f"{run.name}, stage {worst.stage.name}, {memory.peak_phase} of a pack of {memory.pack}: needs "
        f"{memory.peak / 1e9:,.1f} GB a GPU, {worst.missing / 1e9:,.1f} GB more than {gpu.name}'s "
        f"{gpu.memory / 1e9:,.0f}; largest: {parts} GB; {advice}"
    )


def remedies(stages: Sequence[StageEstimate]) -> list[Remedy]:
    """Changes that make all stages fit, each alone, the cheapest first; where none does alone, several at once."""
    stages = sorted(stages, key=lambda estimate: -estimate.missing)  # what fails is seen soon
    parallel, cluster = stages[0].config.parallel, stages[0].cluster
    others = [gpu for gpu in GPUS if gpu != cluster.gpu.name]
    kinds: list[list[Remedy]] = [
        [Remedy(settings={"parallel.activation_checkpointing": True})] if not parallel.activation_checkpointing else [],
        [Remedy(settings={"parallel.sharding": "fsdp"})] if parallel.sharding == "none" else [],
        [Remedy(settings={"parallel.shard_group": size}) for size in _larger_groups(stages)],
        [Remedy(gpus=count) for count in _more_gpus(stages)],
        [Remedy(gpu=gpu) for gpu in others],
    ]
    found = [next((remedy for remedy in kind if _fit(stages, remedy)), None) for kind in kinds]
    found.insert(-1, _with_shorter_packs(stages, Remedy()))
    return [remedy for remedy in found if remedy] or [remedy for remedy in [_combined(stages, others)] if remedy]


def _combined(stages: Sequence[StageEstimate], others: Sequence[str]) -> Remedy | None:
    """All that costs nothing but time; then more GPUs, then shorter packs, then another kind of GPU besides."""
    parallel = stages[0].config.parallel
    wanted: Settings = {"sharding": "fsdp", "shard_group": 0, "activation_checkpointing": True}
    free = {f"parallel.{name}": value for name, value in wanted.items() if getattr(parallel, name) != value}
    same, other = ([Remedy(gpus, kind, free) for kind in kinds for gpus in (0, *_more_gpus(stages))] for kinds in ([""], others))
    shorter = (remedy for remedy in (_with_shorter_packs(stages, remedy) for remedy in same) if remedy)
    fitting = (remedy for remedy in same if _fit(stages, remedy))
    return next(chain(fitting, shorter, (remedy for remedy in other if _fit(stages, remedy))), None)


def _fit(stages: Iterable[StageEstimate], remedy: Remedy) -> bool:
    try:
        return not any(remedy.applied(estimate).missing for estimate in stages)
    except UserError:  # a step that cannot be shared out so, a pack shorter than a sample
        return False


def _larger_groups(stages: Sequence[StageEstimate]) -> list[int]:
    parallel, gpus = stages[0].config.parallel, stages[0].cluster.gpus
    if parallel.sharding == "none" or not parallel.shard_group:
        return []
    return [size for size in range(parallel.shard_group + 1, gpus + 1) if gpus % size == 0]


def _more_gpus(stages: Sequence[StageEstimate]) -> list[int]:
    """Numbers that share the packs of a step evenly."""
    packs, now = min(estimate.stage.packs_per_step for estimate in stages), stages[0].cluster.gpus
    return [count for count in range(now + 1, packs + 1) if packs % count == 0]


def _with_shorter_packs(stages: Sequence[StageEstimate], remedy: Remedy) -> Remedy | None:
    """The remedy with packs of half, a quarter, ... of the tokens, and as many more of them, in the stages that it leaves too
    large; None where no length helps, or none is needed."""
    settings: Settings = {}
    for name in dict.fromkeys(estimate.stage.name for estimate in stages):
        group = [estimate for estimate in stages if estimate.stage.name == name]
        if _fit(group, remedy):
            continue
        stage = group[0].stage
        lengths = [stage.tokens_per_rank >> power for power in range(1, 8) if stage.tokens_per_rank >> power >= MIN_TOKENS]
        for tokens in lengths:
            packs = stage.packs_per_step * (stage.tokens_per_rank // tokens)
            shorter = {f"stages.{name}.tokens_per_rank": tokens, f"stages.{name}.packs_per_step": packs}
            if _fit(group, replace(remedy, settings={**remedy.settings, **shorter})):
                settings |= shorter
                break
        else:
            return None
    return replace(remedy, settings={**remedy.settings, **settings}) if settings else None
