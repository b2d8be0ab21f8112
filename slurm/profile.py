"""Cluster profiles: a small YAML file that says how jobs are asked for on one cluster, read strictly.

    resources: what every job asks for          actions: what differs for train, sample, evaluate, answer, report
    shares: jobs that share out one action      the rest: how jobs start and how they are stopped

Only training runs as several tasks. The other actions take from `resources` what names the cluster's parts, with one task
on one node: a GPU where training has any, none for the report, and a task's share of the memory. `answer`, questions to the run
itself, is as `evaluate` where the profile does not say otherwise.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rf_repro.core.errors import UserError
from rf_repro.core.strict_yaml import Place, choice, integer, parse_boolean, parse_text, parse_texts, read_strict_yaml
from rf_repro.estimate.gpus import GPUS
from slurm.resources import Resources, gres_gpus, parse_gres, parse_memory, parse_time, scale_gres
from slurm.secrets import refuse_secrets

Action = Literal["train", "sample", "evaluate", "answer", "report"]
Shared = Literal["sample", "evaluate", "answer"]
Device = Literal["auto", "cpu", "cuda"]
ACTIONS: tuple[Action, ...] = get_args(Action)
BUNDLED = Path(__file__).parent / "profiles"
DEFAULT = "gpu-cluster"

LOCAL_RESOURCES = ("tasks_per_node", "gpus_per_node", "cpus_per_task", "time")  # what means something without SLURM
FLAGS_OF_FIELDS = {
    "account": "account", "constraint": "constraint", "cpus-per-task": "cpus_per_task", "exclude": "exclude",
    "exclusive": "exclusive", "gpus": "gpus_per_node", "gpus-per-node": "gpus_per_node", "gpus-per-task": "gpus_per_node",
    "gres": "gres", "mem": "memory", "nodelist": "nodelist", "nodes": "nodes", "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node", "partition": "partition", "qos": "qos", "reservation": "reservation", "time": "time",
}  # fmt: skip
FLAGS_OF_SUBMISSION = (
    "array", "chdir", "clusters", "comment", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "open-mode",
    "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap",
)  # fmt: skip


@dataclass(frozen=True)
class Container:
    """An image that srun starts tasks in (SLURM's pyxis plugin). `mounts` are SOURCE:TARGET or SOURCE:TARGET:FLAGS."""

    image: str
    mounts: tuple[str, ...] = ()
    workdir: str | None = None


@dataclass(frozen=True)
class Profile:
    """A checked profile.

    Attributes:
        source: the file it came from; a bundled example says so.
        actions: resources of each action.
        signal_seconds: between the warning signal and the kill; at least one step and one save.
        max_crashes: how often a run that was killed is put back into the queue.
        max_parallel: jobs of one array at a time; None is no limit of ours.
        setup: shell commands before Python starts.
        environment: exported to the job.
        python: the command that starts Python in jobs; None is the interpreter that submits.
        threads: of torch in each task; None is its `cpus_per_task`.
        shares: into how many jobs a drawing, a scoring or a benchmark's questions are shared out.
        gpu: which one a job gets, as `rf-repro estimate --gpu` names them: what jobs need and how long they take is told by it.
    """

    source: str
    actions: Mapping[Action, Resources]
    cluster: Literal["slurm", "local"] = "slurm"
    signal_seconds: int = 120
    max_crashes: int = 3
    max_parallel: int | None = None
    setup: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    container: Container | None = None
    python: str | None = None
    threads: int | None = None
    device: Device = "auto"
    shares: Mapping[str, int] = field(default_factory=dict)
    gpu: str | None = None

    def shares_of(self, action: Action) -> int:
        """Jobs that share out one action of this kind."""
        return self.shares.get(action, 1)

    def resources(self, action: Action, single: bool = False) -> Resources:
        """Of one job. `single`: of a training that runs as one task whatever the profile says, with a GPU at most."""
        resources = self.actions[action]
        return resources.one_task(min(1, resources.node_gpus)) if single and resources.tasks > 1 else resources

    def threads_of(self, action: Action) -> int:
        """CPU threads of torch in each task."""
        return self.threads or self.actions[action].cpus_per_task

    def slurm_parameters(self, resources: Resources, mounts: Sequence[Path] = ()) -> dict[str, Any]:
        """Keyword arguments of `submitit.SlurmExecutor.update_parameters`; unset ones are left out.

        Args:
            mounts: folders that jobs need under the same path (code, runs); used where tasks run in a container.
        """
        flags = dict(resources.sbatch)
        if resources.reservation is not None:
            flags["reservation"] = resources.reservation
        # srun decides a task's CPUs itself since SLURM 22.05, whatever sbatch was told.
        srun = [f"--cpus-per-task={resources.cpus_per_task}"]
        if self.container is not None:
            srun.append(f"--container-image={self.container.image}")
            if paths := [*self.container.mounts, *(f"{path}:{path}" for path in mounts)]:
                srun.append(f"--container-mounts={','.join(paths)}")
            if self.container.workdir is not None:
                srun.append(f"--container-workdir={self.container.workdir}")
        exports = [f"export {name}={shlex.quote(value)}" for name, value in (self.environment or {}).items()]
        parameters = {
            "nodes": resources.nodes,
            "ntasks_per_node": resources.tasks_per_node,
            "gpus_per_node": resources.gpus_per_node or None,
            "gres": resources.gres,
            "cpus_per_task": resources.cpus_per_task,
            "mem": None if resources.memory is None else f"{resources.memory}M" if resources.memory else "0",
            "time": resources.time,
            "partition": resources.partition,
            "account": resources.account,
            "qos": resources.qos,
            "constraint": resources.constraint,
            "exclude": resources.exclude,
            "nodelist": resources.nodelist,
            "exclusive": resources.exclusive or None,
            "signal_delay_s": self.signal_seconds,
            "setup": [*self.setup, *exports] or None,
            "srun_args": srun,
            "additional_parameters": flags or None,
        }
        return {name: value for name, value in parameters.items() if value is not None}


def bundled_profiles() -> list[str]:
    """Names of the examples that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def load_profile(name_or_path: str | None) -> Profile:
    """Reads a profile.

    Args:
        name_or_path: the name of a bundled example, or a file; None is the example `gpu-cluster`.

    Raises:
        UserError: no such file, not YAML, or a key or value that is not allowed; one line with its place and what is.
    """
    if name_or_path is None or name_or_path in bundled_profiles():
        path = BUNDLED / f"{name_or_path or DEFAULT}.yaml"
        source = f"{path.stem} (bundled example, {path})"
    else:
        path, source = Path(name_or_path), name_or_path
    if not path.exists():
        bundled = bundled_profiles()
        near = difflib.get_close_matches(path.name, bundled, 1)
        hint = f"did you mean {near[0]}?" if near else f"give a YAML file or a bundled example: {', '.join(bundled)}"
        raise UserError(f"profile {path}: no such file; {hint}")
    return _profile(read_strict_yaml(path), Place(str(path)), source)


def _setup_line(value: Any) -> str:
    if parse_text(value).lstrip().startswith("#SBATCH"):
        raise UserError("is a flag of sbatch, not a command; put it under resources.sbatch")
    return value


def _mount(value: Any) -> str:
    if "," in parse_text(value):
        raise UserError("must not hold a comma; give each mount as an item of its own")
    return value


def _environment_value(value: Any) -> str:
    if type(value) is int:
        return str(value)
    if value == "":
        return value
    return parse_text(value)


def _flag_value(value: Any) -> str | int | bool:
    if value is True or type(value) is int:
        return value
    if not isinstance(value, str):
        raise UserError("must be text, an integer, or true for a flag without a value")
    return parse_text(value)


_RESOURCES: dict[str, Callable[[Any], Any]] = {
    "nodes": integer(1),
    "tasks_per_node": integer(1),
    "gpus_per_node": integer(0),
    "cpus_per_task": integer(1),
    "memory": parse_memory,
    "time": parse_time,
    "gres": parse_gres,
    "exclusive": parse_boolean,
}
_KEYS: dict[str, Callable[[Any], Any]] = {
    "cluster": choice("slurm", "local"),
    "signal_seconds": integer(1),
    "max_crashes": integer(0),
    "max_parallel": integer(1),
    "python": parse_text,
    "threads": integer(1),
    "device": choice(*get_args(Device)),
    "gpu": choice(*GPUS),
}


def _profile(raw: Any, place: Place, source: str) -> Profile:
    allowed = ["resources", "actions", *(item.name for item in fields(Profile) if item.name not in ("source", "actions"))]
    raw = place.mapping(raw, allowed)
    refuse_secrets(raw, place)
    given = {key: place.at(key).parse(_KEYS[key], raw[key]) for key in _KEYS if raw.get(key) is not None}
    if raw.get("setup") is not None:
        given["setup"] = parse_texts(raw["setup"], place.at("setup"), _setup_line)
    if raw.get("environment") is not None:
        given["environment"] = _environment(raw["environment"], place.at("environment"))
    if raw.get("shares") is not None:
        kinds = place.at("shares").mapping(raw["shares"], get_args(Shared))
        given["shares"] = {key: place.at("shares").at(key).parse(integer(1), value) for key, value in kinds.items()}
    if raw.get("container") is not None:
        given["container"] = _container(raw["container"], place.at("container"))
    common = _values(raw.get("resources"), place.at("resources"), one_task=False)
    own = place.at("actions").mapping(raw.get("actions"), ACTIONS)
    values = {name: _values(own.get(name), place.at("actions").at(name), one_task=name != "train") for name in ACTIONS}
    profile = Profile(source, _actions(common, values), **given)
    if profile.cluster == "local":
        _check_local(profile, {"resources": common, **{f"actions.{name}": values[name] for name in ACTIONS}}, place)
    else:
        _check_slurm(profile, place)
    return profile


def _values(raw: Any, place: Place, one_task: bool) -> dict[str, Any]:
    """Checked values of one group of resources, only the keys that it holds; null puts a key back to its default."""
    values: dict[str, Any] = {}
    for key, value in place.mapping(raw, [item.name for item in fields(Resources)]).items():
        if one_task and key in ("nodes", "tasks_per_node"):
            raise place.at(key).error("only training runs as several tasks; remove this key")
        if value is None:
            values[key] = None
        elif key == "sbatch":
            values[key] = _flags(value, place.at(key))
        else:
            values[key] = place.at(key).parse(_RESOURCES.get(key, parse_text), value)
    if values.get("gpus_per_node") is not None and gres_gpus(values.get("gres")):
        raise place.at("gres").refuse(values["gres"], "asks for GPUs, as gpus_per_node does; remove one of the two")
    return values


def _flags(raw: Any, place: Place) -> tuple[tuple[str, str | int | bool], ...]:
    flags = {}
    for key, value in place.mapping(raw).items():
        name = key.replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) < 2:
            raise place.error(f"key {key!r}: must be the long name of a flag of sbatch, without dashes in front: mail-type")
        # sbatch takes any beginning of a flag's name for the flag.
        for flag in FLAGS_OF_SUBMISSION:
            if flag.startswith(name):
                raise place.at(key).error(f"--{flag} is set by the submission itself; remove it")
        for flag, key_of_ours in FLAGS_OF_FIELDS.items():
            if flag.startswith(name):
                raise place.at(key).error(f"--{flag} has a key of its own; use {key_of_ours}")
        flags[name] = place.at(key).parse(_flag_value, value)
    return tuple(sorted(flags.items()))


def _environment(raw: Any, place: Place) -> dict[str, str]:
    for name in place.mapping(raw):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise place.error(f"key {name!r}: must be a variable's name: letters, digits and _, no digit first")
    return {name: place.at(name).parse(_environment_value, value) for name, value in raw.items()}


def _container(raw: Any, place: Place) -> Container:
    raw = place.mapping(raw, [item.name for item in fields(Container)])
    if raw.get("image") is None:
        raise place.error("image is missing; name one, or write container: null")
    return Container(
        place.at("image").parse(parse_text, raw["image"]),
        parse_texts(raw.get("mounts") or [], place.at("mounts"), _mount),
        None if raw.get("workdir") is None else place.at("workdir").parse(parse_text, raw["workdir"]),
    )


def _actions(common: dict[str, Any], values: dict[Action, dict[str, Any]]) -> dict[Action, Resources]:
    shared, train = _resources(common), _resources(_merged(common, values["train"]))
    shared = replace(shared, gpus_per_node=train.gpus_per_node, gres=train.gres)
    actions: dict[Action, Resources] = {"train": train}
    for name in ACTIONS[1:]:
        base = shared.one_task(0 if name == "report" else min(1, train.node_gpus))
        own = {**values["evaluate"], **values["answer"]} if name == "answer" else values[name]
        actions[name] = _resources(_merged(vars(base), own))
    return actions


def _merged(common: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`common` with an action's own values; GPUs asked for in one way replace GPUs asked for in the other."""
    merged = {**common, **values}
    if "gpus_per_node" in values and "gres" not in values and merged.get("gres"):
        merged["gres"] = scale_gres(merged["gres"], 0)
    if gres_gpus(values.get("gres")) and "gpus_per_node" not in values:
        merged["gpus_per_node"] = 0
    return merged


def _resources(values: Mapping[str, Any]) -> Resources:
    given = {name: value for name, value in values.items() if value is not None}
    ranks = given.get("gpus_per_node", 0) + gres_gpus(given.get("gres"))
    return Resources(**{"tasks_per_node": max(1, ranks), **given})


def _check_slurm(profile: Profile, place: Place) -> None:
    for name, resources in profile.actions.items():
        if resources.time is None:
            raise place.error(f'no time limit for {name}: set resources.time (for example "24:00:00") or actions.{name}.time')
        if 2 * profile.signal_seconds >= 60 * resources.time:
            raise place.at("signal_seconds").refuse(
                profile.signal_seconds, f"must be shorter than half the time limit of {name} ({60 * resources.time} s)"
            )
        if profile.device == "cuda" and name != "report" and not resources.gpus:
            raise place.at("device").refuse("cuda", f"{name} asks for no GPU; set gpus_per_node or gres, or device: auto")


def _check_local(profile: Profile, groups: dict[str, dict[str, Any]], place: Place) -> None:
    for group, values in groups.items():
        for key, value in values.items():
            if value is not None and key not in LOCAL_RESOURCES:
                raise place.error(f"{group}.{key}: has no meaning with cluster: local; remove it")
    if profile.container is not None:
        raise place.at("container").error("has no meaning with cluster: local; remove it")
