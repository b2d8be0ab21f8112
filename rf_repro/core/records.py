"""The records a run leaves behind. Reports read these and nothing else."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from rf_repro.core.errors import UserError

R = TypeVar("R")
LATER = {"later": True}  # of a field that published records may lack: it has its default there
Status = Literal["planned", "running", "done", "failed"]
Action = Literal["train", "sample", "evaluate"]
ACTIONS: tuple[Action, ...] = ("train", "sample", "evaluate")  # of a variant, in order; a shared stage is one `train`


@dataclass(frozen=True)
class Attempt:
    """One job that worked on the run, in one process or several ranks. Times are UTC ISO 8601; seconds are wall-clock."""

    started: str
    host: str
    pid: int
    device: str
    threads: int
    job_id: str | None = None
    from_step: int = 0
    seconds: float | None = None  # None: it was killed before it could say
    error: str | None = None
    action: str = field(default="all", metadata=LATER)  # train, sample, evaluate, or all of them
    ranks: int = field(default=1, metadata=LATER)
    arithmetic: str | None = field(default=None, metadata=LATER)  # bf16 or fp32, as the machine has it; None: before it was kept
    compiled: bool | None = field(default=None, metadata=LATER)  # whether layers were, in training; None: no training


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: what ran, from which code and data, on what, and how it went.

    `compute_seconds` is training time alone: CPU time on a CPU, wall-clock on an accelerator.
    """

    scale: str
    variant: str
    seed: int
    config_hash: str
    status: Status = "planned"
    data_fingerprint: str | None = None
    revision: str | None = None
    dirty: str | None = None  # SHA-256 of the uncommitted diff; None when the tree is clean
    versions: dict[str, str] = field(default_factory=dict)  # of libraries, and of pretrained models from the hub
    started_from: list[str] = field(default_factory=list)  # shared stages, as "name/hash12-sSEED"
    steps: int = 0
    tokens: int = 0
    compute_seconds: float = 0.0
    parameters: dict[str, int] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "run.json") -> "RunRecord":
        """Raises UserError when the fields are not this version's."""
        attempts = [strict(Attempt, item, f"{where}: attempts") for item in data.get("attempts", [])]
        return strict(cls, {**data, "attempts": attempts}, where)


@dataclass(frozen=True)
class EvalResult:
    """One evaluation. A metric that could not be measured is None with its reason in `missing`, never 0.

    `metrics` are fractions in [0, 1]; `overall` is the unweighted mean of the tasks. `protocol` names rules and prompt
    set: results of different protocols are never put in one column. `items` is the per-image file beside the record.
    """

    benchmark: str
    protocol: str
    metrics: dict[str, float | None]
    n: int
    expected_n: int
    failures: int = 0  # images that could not be read or scored; they are not in n
    missing: dict[str, str] = field(default_factory=dict)
    evaluator: dict[str, str] = field(default_factory=dict)  # detector, colour classifier, with revisions
    step: int | None = None
    weights: str | None = None
    items: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "evals") -> "EvalResult":
        """Raises UserError when the fields are not this version's."""
        return strict(cls, data, where)


def strict(kind: type[R], data: Any, where: str) -> R:
    """`kind(**data)`; raises UserError on missing or unknown fields."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    optional = {item.name for item in fields(kind) if item.metadata.get("later")}  # type: ignore[arg-type]
    if not isinstance(data, dict) or not names - optional <= set(data) <= names:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise UserError(f"{where}: not a {kind.__name__} of this version: found {found}, expected {sorted(names)}")
    return kind(**data)
