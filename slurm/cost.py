"""What the actions of a grid ask of GPUs, and for how long, by `rf_repro.estimate`: where a profile names its GPU."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil

from rf_repro.core.errors import UserError
from rf_repro.estimate.gpus import GPU, get_gpu
from rf_repro.evaluations.actions import Drawing, Evaluation, Scoring
from rf_repro.launch.plan import TRAIN, Job
from slurm.profile import Profile
from slurm.resources import Resources

# Assumed: seconds that a GPU takes for an image: Mask2Former and CLIP; about 13 questions of DPG to mPLUG, 8 of GenEval 2 and 4
# of GenEval's prompts to a model of 8B parameters. The models are others', and nothing here estimates them.
SECONDS_AN_IMAGE = {"geneval": 0.2, "dpg": 1.0, "geneval2": 1.2, "geneval-vlm": 0.6}
PUBLISHED_PROMPTS = {"official": 553, "bagel-long": 553, "dpg": 1065, "geneval2": 800}
SPARE = 8 << 30  # bytes of host memory beside what an action is known to need: Python, libraries, data


@dataclass(frozen=True)
class ActionCost:
    """Of one action of one run: its jobs, the GPUs of each, GPU hours of all together, bytes that a job needs on a GPU and on
    the host (0: not told), and whether pools take turns there."""

    jobs: int
    gpus: int
    gpu_hours: float
    device_bytes: int = 0
    host_bytes: int = 0
    in_phases: bool = False


def cost_of(job: Job, action: str, profile: Profile) -> ActionCost:
    """By estimate.

    Args:
        profile: with the name of its GPU.

    Raises:
        UserError: the profile names no GPU, or the ranks cannot share a step.
    """
    if profile.gpu is None:
        raise UserError(f"{profile.source}: gpu: names none, so nothing can be estimated; set one, for example gpu: h100")
    gpu, evaluation = get_gpu(profile.gpu), job.evaluation(action)
    if evaluation is None:
        return _training(job, gpu, profile)
    jobs = profile.shares_of(job.kind_of(action))
    return replace(_evaluation(job, evaluation, gpu), jobs=jobs)


def _training(job: Job, gpu: GPU, profile: Profile) -> ActionCost:
    from rf_repro.estimate.plan import Cluster, estimate_stage

    resources = profile.resources(TRAIN, single=job.single)
    if job.prerequisite is not None and not job.prerequisite.is_stage:
        return ActionCost(1, resources.gpus, 0.0)  # a small component, which nothing estimates
    found = estimate_stage(job.config, job.config.stages[-1], Cluster(gpu, max(1, resources.gpus)))
    return ActionCost(1, resources.gpus, found.gpu_hours, found.memory.peak)


def _evaluation(job: Job, evaluation: Evaluation, gpu: GPU) -> ActionCost:
    from rf_repro.estimate.inference import estimate_action

    if isinstance(evaluation, Scoring) and evaluation.images is not None:
        images = _prompts(evaluation.images) * evaluation.images.num
        return ActionCost(1, 1, images * SECONDS_AN_IMAGE[evaluation.benchmark] / 3600)
    if isinstance(evaluation, Drawing):
        size = (evaluation.size, evaluation.size)
        found = estimate_action(job.config, "sample", gpu, size=size, images=_prompts(evaluation) * evaluation.num)
    else:
        found = estimate_action(job.config, "answer", gpu, questions=_questions(evaluation))
    return ActionCost(1, 1, found.hours, found.device_bytes, found.host_bytes, found.phases)


@cache
def _prompts(drawing: Drawing) -> int:
    from rf_repro.evaluations.prompts import prompt_rows

    return PUBLISHED_PROMPTS.get(drawing.prompts) or len(prompt_rows(drawing))


def _questions(scoring: Scoring) -> int:
    from evaluators.understanding.benchmarks import BENCHMARKS

    expected = BENCHMARKS[scoring.benchmark].expected
    return min(expected, scoring.get("limit") or expected)


def sized(profile: Profile, job: Job, action: str) -> Resources:
    """What a job of an action asks for: the profile's, with host memory by estimate where the profile names none.

    Raises:
        UserError: it does not fit the profile's GPU, or the memory that the profile asks for.
    """
    kind = job.kind_of(action)
    resources = profile.resources(kind, single=job.single)
    if profile.gpu is None or kind not in ("sample", "answer") or job.evaluation(action) is None:
        return resources
    cost, gpu = cost_of(job, action, profile), get_gpu(profile.gpu)
    if cost.device_bytes > gpu.memory:
        raise UserError(
            f"{job.name}: {action} needs {cost.device_bytes / 1e9:.0f} GB on a GPU, {profile.gpu} has {gpu.memory / 1e9:.0f}; "
            "lower sampling.batch_size, or name a larger one (rf-repro estimate --inference)"
        )
    needed = ceil((cost.host_bytes + SPARE) / (1 << 20))
    if resources.memory is None:
        return replace(resources, memory=needed)
    if 0 < resources.memory < needed:
        raise UserError(
            f"{profile.source}: actions.{kind}.memory={resources.memory}M: {action} of {job.name} needs {needed}M on the host; "
            "raise it, or leave it out"
        )
    return resources


@dataclass(frozen=True)
class CostRow:
    """One action of a variant, over all its seeds."""

    variant: str
    action: str
    runs: int
    cost: ActionCost

    @property
    def gpu_hours(self) -> float:
        return self.runs * self.cost.gpu_hours


def cost_rows(jobs: Iterable[Job], profile: Profile) -> Sequence[CostRow]:
    """Of every action, in the order of the plan, seeds together."""
    rows: dict[tuple[str, str, str], CostRow] = {}
    for job in jobs:
        digest = job.run.path.name.rpartition("-s")[0]
        for action in job.actions:
            known = rows.get((job.variant, digest, action))
            cost = cost_of(job, action, profile) if known is None else known.cost
            rows[job.variant, digest, action] = CostRow(job.variant, action, 1 + (known.runs if known else 0), cost)
    return list(rows.values())
