"""What one job asks of a cluster, and the texts in which people write memory, time and GPUs."""

import math
import re
from dataclasses import dataclass, replace

from rf_repro.core.errors import UserError

MEGABYTES = {"M": 1, "G": 1024, "T": 1024**2}
MINUTES = {"m": 1, "h": 60, "d": 24 * 60}


@dataclass(frozen=True)
class Resources:
    """The resources of one job, every default decided.

    Attributes:
        nodes: nodes; the next three count for each of them.
        tasks_per_node: processes (ranks).
        gpus_per_node: GPUs asked for by number; 0 where `gres` names them.
        memory: megabytes (1024 * 1024 bytes) a node; 0 is all of it, None the cluster's default.
        gres: SLURM's own form, e.g. `gpu:h100:8`, for a cluster that wants the type.
        cpus_per_task: CPUs of each task.
        time: limit in minutes; None only where nothing enforces one (`cluster: local`).
        sbatch: further flags, sorted by name; True stands for a flag without a value.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    memory: int | None = None
    time: int | None = None
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    exclusive: bool = False
    sbatch: tuple[tuple[str, str | int | bool], ...] = ()

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def node_gpus(self) -> int:
        """GPUs of a node, whichever way they are asked for."""
        return self.gpus_per_node + gres_gpus(self.gres)

    @property
    def gpus(self) -> int:
        return self.nodes * self.node_gpus

    @property
    def cpus(self) -> int:
        return self.tasks * self.cpus_per_task

    def one_task(self, gpus: int) -> "Resources":
        """The same for a job of one task on one node with so many GPUs.

        Memory is a task's share. What claims whole nodes (`exclusive`, all memory, `nodelist`, which asks for every node it
        names) is dropped: the job needs a part of one.
        """
        gres = self.gres
        if gres is not None and gres_gpus(gres):
            gres, number = scale_gres(gres, gpus), 0
        else:
            number = gpus
        memory = math.ceil(self.memory / self.tasks_per_node) if self.memory else None
        return replace(
            self, nodes=1, tasks_per_node=1, gpus_per_node=number, gres=gres, memory=memory, exclusive=False, nodelist=None
        )

    def describe(self) -> str:
        """`2 x 8 GPUs, 16 ranks, 24:00:00, partition gpu`."""
        count, unit = (self.node_gpus, "GPU") if self.gpus else (self.tasks_per_node * self.cpus_per_task, "CPU")
        parts = [f"{self.nodes} x {count} {unit}{'s' * (count != 1)}", f"{self.tasks} rank{'s' * (self.tasks != 1)}"]
        if self.time is not None:
            parts.append(f"{self.time // 60:02d}:{self.time % 60:02d}:00")
        if self.partition is not None:
            parts.append(f"partition {self.partition}")
        return ", ".join(parts)


def parse_memory(value: object) -> int:
    """Megabytes of `64GB`, `500MB` or `2T` (powers of 1024, as SLURM counts them); 0 for `all`."""
    if value == "all":
        return 0
    match = re.fullmatch(r"([1-9]\d*) ?([MGT])B?", value) if isinstance(value, str) else None
    if match is None:
        raise UserError("must be a whole number with its unit, for example 64GB or 500MB, or all (the whole node's)")
    return int(match[1]) * MEGABYTES[match[2]]


def parse_time(value: object) -> int:
    """Minutes, rounded up, of `D-HH:MM:SS`, `HH:MM:SS`, `90m`, `24h`, `2d` or an integer number of minutes."""
    minutes = 0
    if type(value) is int:
        minutes = value
    elif isinstance(value, str) and (match := re.fullmatch(r"(\d+)([mhd])", value)):
        minutes = int(match[1]) * MINUTES[match[2]]
    elif isinstance(value, str) and (match := re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", value)):
        days, hours, whole, seconds = (int(part or 0) for part in match.groups())
        minutes = (days * 24 + hours) * 60 + whole + (seconds > 0)
    if minutes < 1:
        raise UserError('must be a time such as "24:00:00", "2-00:00:00", 90m or 24h, or minutes as a positive integer')
    return minutes


def parse_gres(value: object) -> str:
    """SLURM's list of generic resources, e.g. `gpu:h100:8` or `gpu:8,nvme:100`, with at most one kind of GPU."""
    name = r"[A-Za-z_][\w.-]*"
    entry = rf"{name}(:{name})?(:\d+)?"
    if not isinstance(value, str) or not re.fullmatch(rf"{entry}(,{entry})*", value) or _gpu_entries(value) > 1:
        raise UserError(
            "must be NAME:COUNT or NAME:TYPE:COUNT, separated by commas, with one kind of gpu: for example gpu:h100:8"
        )
    return value


def gres_gpus(gres: str | None) -> int:
    """GPUs in a list of generic resources; an entry without a count is one."""
    counts = [entry.split(":")[-1] for entry in (gres or "").split(",") if entry.split(":")[0] == "gpu"]
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def _gpu_entries(gres: str) -> int:
    return sum(entry.split(":")[0] == "gpu" for entry in gres.split(","))


def scale_gres(gres: str, gpus: int) -> str | None:
    """The list with another number of GPUs of the same type; an empty one is None."""
    entries = []
    for entry in gres.split(","):
        name, *rest = entry.split(":")
        if name != "gpu":
            entries.append(entry)
        elif gpus:
            entries.append(":".join([name, *(part for part in rest if not part.isdigit()), str(gpus)]))
    return ",".join(entries) or None
