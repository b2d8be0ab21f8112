"""What was asked for and what was handed to SLURM, as files below `RUNS/.sweep`: any later process on any node finds it there.

requests/DIGEST.json          one `sweep submit`: enough to plan it again
grids/DIGEST/                 copies of the files with grids of the user's own that were asked for
code/DIGEST/                  snapshots of the code that jobs run from
jobs/TOKEN/submission.json    one sbatch call: an array of one action; beside it the script, the pickles, the logs and the
                              `requeue-INDEX` files
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.registry import get_claims
from ablations.user_grids import file_of, in_file, is_of_file
from rf_repro.core.action_dir import Share
from rf_repro.core.files import atomic_path, read_json, write_json
from rf_repro.core.hashing import content_hash
from rf_repro.core.provenance import utc_now
from rf_repro.core.records import LATER, strict
from rf_repro.evaluations.plan import EMPTY, plan_of
from rf_repro.launch.plan import Plan, make_plan
from slurm.queue import QueuedJob


@dataclass(frozen=True)
class Request:
    """One `sweep submit`: the grid, where its report goes (absolute), and the profile it ran with (name or absolute path).

    `tables` are names as `ablations.registry.get_grids` takes them; those of the user's own lie in copies below `RUNS/.sweep`
    (`Ledger.keep`).
    """

    scale: str
    tables: list[str]
    seeds: list[int] | None
    only: list[str]
    overrides: dict[str, Any]
    share_first_stage: bool
    out: str
    profile: str | None
    max_parallel: int | None
    evaluations: dict[str, Any] = field(default_factory=dict, metadata=LATER)  # `EvaluationPlan.raw`; {}: none

    @property
    def digest(self) -> str:
        return content_hash(asdict(self))[:12]

    def plan(self, runs: Path) -> Plan:
        return make_plan(
            self.scale, self.tables, self.seeds, runs, self.overrides, share_first_stage=self.share_first_stage, only=self.only,
            evaluations=plan_of(self.evaluations) if self.evaluations else EMPTY,
        )  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """One sbatch call.

    Attributes:
        action: train, sample, evaluate, the name of an evaluation, or report.
        runs: run directories relative to the folder of all runs, by array index; those of a report job are none.
        job_id: SLURM's; None until sbatch has answered, and for ever if the submitter was killed just then.
        shares: (index, count) of the share of its action that each element does; none: all of it.
    """

    token: str
    action: str
    runs: list[str]
    request: str
    snapshot: str
    submitted: str
    job_id: str | None = None
    shares: list[list[int]] = field(default_factory=list, metadata=LATER)

    def element(self, index: int) -> str | None:
        """The id of one element as SLURM's commands take it. Submitit submits a single one without an array."""
        return self.job_id if self.job_id is None or len(self.runs) <= 1 else f"{self.job_id}_{index}"


@dataclass(frozen=True)
class Element:
    """One job of a submission."""

    submission: Submission
    index: int

    @property
    def id(self) -> str | None:
        return self.submission.element(self.index)

    @property
    def share(self) -> Share:
        """(index, count) of the share of its action that it does."""
        shares = self.submission.shares
        return (shares[self.index][0], shares[self.index][1]) if shares else (0, 1)


class Ledger:
    """The requests and submissions below a folder of runs."""

    def __init__(self, runs: Path) -> None:
        self.runs = Path(runs).absolute()
        self.folder = self.runs / ".sweep"

    @property
    def code(self) -> Path:
        return self.folder / "code"

    def requests(self) -> list[Request]:
        """Oldest first."""
        paths = sorted(self.folder.glob("requests/*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [strict(Request, read_json(path), str(path)) for path in paths]

    def keep(self, request: Request) -> Request:
        """The request with grids of the user's own taken from copies: what was submitted stays what it was, whatever happens to
        the files, and jobs find it where they find their runs.

        Raises:
            UserError: there is no such grid.
        """
        tables = []
        for name in request.tables:
            if is_of_file(name):
                get_claims([name])  # it is there, and what its file says about it is right
                file, source = file_of(name), file_of(name).read_bytes()
                copy = self.folder / "grids" / hashlib.sha256(source).hexdigest()[:12] / file.name
                if not copy.exists():
                    with atomic_path(copy) as temporary:
                        temporary.write_bytes(source)
                name = in_file(name, copy)
            tables.append(name)
        return replace(request, tables=tables)

    def write_request(self, request: Request) -> None:
        write_json(self.folder / "requests" / f"{request.digest}.json", asdict(request))

    def submissions(self) -> list[Submission]:
        """Oldest first."""
        paths = sorted(self.folder.glob("jobs/*/submission.json"))  # tokens begin with the time
        return [strict(Submission, read_json(path), str(path)) for path in paths]

    def new(
        self, action: str, runs: Iterable[Path], request: Request, snapshot: Path, shares: Sequence[Share] = ()
    ) -> Submission:
        """Written before sbatch is called, so that a job whose submitter died can be told by the token in its comment."""
        now = utc_now()
        stamp = now[:19].replace("-", "").replace(":", "").replace("T", "-")
        names = [str(path.absolute().relative_to(self.runs)) for path in runs]
        submission = Submission(
            f"{stamp}-{action}-{secrets.token_hex(3)}", action, names, request.digest, str(snapshot), now,
            shares=[list(share) for share in shares],
        )  # fmt: skip
        self.write(submission)
        return submission

    def write(self, submission: Submission) -> None:
        write_json(self.job_folder(submission) / "submission.json", asdict(submission))

    def job_folder(self, submission: Submission) -> Path:
        return self.folder / "jobs" / submission.token

    def requeue_path(self, element: Element) -> Path:
        """Where the job says whether it wants to be put back into the queue (`slurm.requeue`)."""
        return self.job_folder(element.submission) / f"requeue-{element.index}"

    def adopt(self, queue: dict[str, QueuedJob]) -> None:
        """Gives their job ids to submissions whose submitter was killed before it could write them."""
        tokens = {job.comment: job.id.split("_")[0] for job in queue.values()}
        for submission in self.submissions():
            if submission.job_id is None and submission.token in tokens:
                self.write(replace(submission, job_id=tokens[submission.token]))

    def elements(self) -> dict[tuple[Path, str], list[Element]]:
        """(run directory, action) -> its jobs, oldest first. Those of reports are under the folder of all runs."""
        found: dict[tuple[Path, str], list[Element]] = {}
        for submission in self.submissions():
            for index, name in enumerate(submission.runs or ["."]):
                found.setdefault((self.runs / name, submission.action), []).append(Element(submission, index))
        return found
