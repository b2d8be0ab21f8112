"""The records a run leaves behind. Reports read these and nothing else."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rf_repro.core.typed import Amount, Count
from rf_repro.core.typed import strict as strict

LATER = {"later": True}  # of a field that published records may lack: it has its default there
Status = Literal["planned", "running", "done", "failed"]
Action = Literal["train", "sample", "evaluate"]
ACTIONS: tuple[Action, ...] = ("train", "sample", "evaluate")  # of a variant, in order; a shared stage is one `train`


@dataclass(frozen=True)
class Attempt:
    """One job that worked on the run, in one process or several ranks. Times are UTC ISO 8601; seconds are wall-clock."""

    started: str
    host: str
    pid: Count
    device: str
    threads: Count
    job_id: str | None = None
    from_step: Count = 0
    seconds: Amount | None = None  # None: it was killed before it could say
    error: str | None = None
    action: str = field(default="all", metadata=LATER)  # train, sample, evaluate, or all of them
    ranks: Count = field(default=1, metadata=LATER)
    arithmetic: str | None = field(default=None, metadata=LATER)  # bf16 or fp32, as the machine has it; None: before it was kept
    compiled: bool | None = field(default=None, metadata=LATER)  # whether layers were, in training; None: no training


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: what ran, from which code and data, on what, and how it went.

    `compute_seconds` is training time alone: CPU time on a CPU, wall-clock on an accelerator.
    """

    scale: str
    variant: str
    seed: Count
    config_hash: str
    status: Status = "planned"
    data_fingerprint: str | None = None
    revision: str | None = None
    dirty: str | None = None  # SHA-256 of the uncommitted diff; None when the tree is clean
    versions: dict[str, str] = field(default_factory=dict)  # of libraries, and of pretrained models from the hub
    started_from: list[str] = field(default_factory=list)  # shared stages, as "name/hash12-sSEED"
    steps: Count = 0
    tokens: Count = 0
    compute_seconds: Amount = 0.0
    parameters: dict[str, Count] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict, metadata=LATER)  # action -> path -> SHA-256, once it is done

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "run.json") -> "RunRecord":
        """Raises UserError when the fields are not this version's."""
        return strict(cls, data, where)


# Fields of rows, those that code reads: whatever else a row holds is kept as it is.
METRICS = {"step": Count, "tokens": Count, "compute_seconds": Amount}  # metrics.jsonl; all others are numbers
BOX = tuple[float, float, float, float, float]  # left, top, right, bottom in pixels, score
ITEM = {
    "prompt_id": Count, "sample": Count, "question_id": Count, "atom_count": Count, "seed": int,
    "tag": str, "prompt": str, "key": str, "item_id": str, "cluster": str, "question": str, "expected": str, "sha256": str,
    "correct": float | bool | None, "reason": str | None, "failure": str | None, "reply": str | None,
    "details": dict[str, list[BOX]], "decisive": dict[str, float | None], "colors": list[tuple[str, str, str | None]],
}  # fmt: skip


@dataclass(frozen=True)
class EvalResult:
    """One evaluation. A metric that could not be measured is None with its reason in `missing`, never 0.

    `metrics` are fractions in [0, 1]; `overall` is the unweighted mean of the tasks. `protocol` names rules and prompt
    set: results of different protocols are never put in one column. `items` is the per-image file beside the record.
    """

    benchmark: str
    protocol: str
    metrics: dict[str, float | None]
    n: Count
    expected_n: Count
    failures: Count = 0  # images that could not be read or scored; they are not in n
    missing: dict[str, str] = field(default_factory=dict)
    evaluator: dict[str, str] = field(default_factory=dict)  # detector, colour classifier, with revisions
    step: Count | None = None
    weights: str | None = None
    items: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "evals") -> "EvalResult":
        """Raises UserError when the fields are not this version's."""
        return strict(cls, data, where)
