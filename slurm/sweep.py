"""A grid on a cluster: what is asked for, how far it is, and handing the rest to SLURM: behind `rf-repro sweep`."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rf_repro.core.errors import UserError
from rf_repro.core.run_lock import run_lock
from rf_repro.launch.here import complete
from rf_repro.launch.plan import Job
from slurm.profile import Profile, load_profile
from slurm.queue import DEFAULT_MAX_ARRAY, QueuedJob, cancel, max_array_size, read_queue
from slurm.snapshot import make_snapshot
from slurm.state import Row, read_rows
from slurm.submission import Ledger, Request, Submission
from slurm.submit import Group, Submitter, group_rows


@dataclass(frozen=True)
class Sweep:
    """One look at a grid: `queue` is None where there is no SLURM, and the states come from files alone."""

    ledger: Ledger
    request: Request
    profile: Profile
    rows: list[Row]
    queue: dict[str, QueuedJob] | None

    def groups(self, wanted: Iterable[Path] | None = None, again: bool = False) -> list[Group]:
        """What is still to be submitted, all or the named runs and the stages they need."""
        rows = self.rows
        if wanted is not None:
            chosen = set(wanted)
            chosen |= {path for row in rows if row.job.run.path in chosen for path in row.job.after}
            chosen |= {path for row in rows if row.job.run.path in chosen for path in row.job.after}  # an encoder's stage
            rows = [row for row in rows if row.job.run.path in chosen]
        limit = DEFAULT_MAX_ARRAY if self.queue is None else max_array_size()
        return group_rows(rows, self.profile, limit, again)

    def report_jobs(self) -> list[str]:
        """Ids of its report jobs in the queue."""
        elements = self.ledger.elements().get((self.ledger.runs, "report"), [])
        ids = [one.id for one in elements if one.submission.request == self.request.digest]
        return [one for one in ids if one is not None and one in (self.queue or {})]

    @property
    def report_is_new(self) -> bool:
        """Whether the report was built after everything its runs have recorded."""
        built = Path(self.request.out) / "claims.json"
        records = [row.job.run.record_path for row in self.rows if row.record is not None]
        return built.exists() and built.stat().st_mtime_ns >= max((one.stat().st_mtime_ns for one in records), default=0)


def look(ledger: Ledger, request: Request, need_queue: bool = False) -> Sweep:
    """Plans the request again and reads how far it is.

    Args:
        need_queue: without SLURM raise UserError; else go by the files.
    """
    profile = load_profile(request.profile)
    queue = read_queue() if need_queue or shutil.which("squeue") else None
    ledger.adopt(queue or {})
    return Sweep(ledger, request, profile, read_rows(request.plan(ledger.runs), ledger, queue or {}), queue)


def submit(
    ledger: Ledger, request: Request, wanted: Iterable[Path] | None = None, again: bool = False
) -> tuple[Sweep, list[Submission]]:
    """Submits what the grid still needs, and its report job; nothing when that is all done or under way.

    Args:
        wanted: run directories; None: all.
        again: also what has failed.

    Raises:
        UserError: no SLURM, an unusable run directory, sources that git does not know, or sbatch's refusal.
    """
    look(ledger, request, need_queue=True)  # what can be refused is, before anything is written
    with run_lock(ledger.folder, patience=60):  # two submitters at once would both find the same things missing
        request = ledger.keep(request)
        sweep = look(ledger, request, need_queue=True)
        groups = sweep.groups(wanted, again)
        reports = sweep.report_jobs()
        if not groups and (reports or sweep.report_is_new):
            return sweep, []
        ledger.write_request(request)
        for row in sweep.rows:
            row.job.create(ledger.runs)
        submitter = Submitter(ledger, request, sweep.profile, make_snapshot(ledger.code).path, _queued(sweep), None)
        for group in groups:
            submitter.submit_group(group)
        submitter.submit_report()
        cancel([one for one in reports if sweep.queue is not None and sweep.queue[one].pending])  # the new one comes later
    return look(ledger, request, need_queue=True), submitter.submitted


def dry_run(sweep: Sweep) -> list[str]:
    """The text of every sbatch call that `submit` would make."""
    texts: list[str] = []
    submitter = Submitter(
        sweep.ledger, sweep.request, sweep.profile, sweep.ledger.code / "SNAPSHOT", _queued(sweep), texts.append
    )
    for group in sweep.groups():
        submitter.submit_group(group)
    submitter.submit_report()
    return texts


def run_here(sweep: Sweep) -> tuple[bool, Path]:
    """Completes the grid's runs on this machine, without SLURM, and builds its report; (whether all are done, the report)."""
    from reports.build import build_report  # Matplotlib, which takes its time to load

    ledger, profile = sweep.ledger, sweep.profile
    request = ledger.keep(sweep.request)
    ledger.write_request(request)
    jobs = request.max_parallel or profile.max_parallel
    done = complete(request.plan(ledger.runs), profile.device, jobs, profile.threads_of("train"))
    return done, build_report([ledger.runs], Path(request.out), request.scale, request.overrides, request.tables)


def _queued(sweep: Sweep) -> dict[tuple[Path, str], str]:
    """(run directory, action) -> job id of what is in the queue."""
    return {
        (row.job.run.path, action): one.job.id for row in sweep.rows for action, one in row.actions.items() if one.job is not None
    }


def all_sweeps(ledger: Ledger) -> list[Sweep]:
    """Every request submitted from this folder of runs, newest first; a run shared by several is in the newest alone, but for
    one that is a row only in older ones: the newest may need no more than its training."""
    requests = ledger.requests()
    if not requests:
        raise UserError(f"{ledger.runs}: nothing was submitted from here; name the folder with --runs, or see `sweep submit`")
    looks = [look(ledger, request) for request in reversed(requests)]
    whole = {row.job.run.path for sweep in looks for row in sweep.rows if row.job.kind == "variant"}
    seen: set[Path] = set()
    sweeps = []
    for sweep in looks:
        fresh = [row for row in sweep.rows
                 if row.job.run.path not in seen and (row.job.kind == "variant" or row.job.run.path not in whole)]  # fmt: skip
        seen |= {row.job.run.path for row in fresh}
        sweeps.append(replace(sweep, rows=fresh))
    return sweeps


def select(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[tuple[Sweep, Row]]:
    """The rows that names mean: a run directory, `pixel_rf-s0`, or `pixel_rf` for all its seeds.

    Raises:
        UserError: a name means none.
    """
    found: list[tuple[Sweep, Row]] = []
    for name in names:
        path = Path(name).absolute()
        hits = [
            (sweep, row) for sweep in sweeps for row in sweep.rows
            if name in (row.job.variant, row.job.slug) or path == row.job.run.path
        ]  # fmt: skip
        if not hits:
            known = list(dict.fromkeys(row.job.slug for sweep in sweeps for row in sweep.rows))
            raise UserError(f"run {name!r}: not one of this folder's sweeps; there are {', '.join(known[:12])}"
                            + (f" and {len(known) - 12} more" if len(known) > 12 else ""))  # fmt: skip
        found += [hit for hit in hits if hit not in found]
    return found


def failed_rows(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[tuple[Sweep, Row]]:
    """Those of the named rows in which something has failed; without names of all. Raises UserError as `select`."""
    named = select(sweeps, names) if names else [(sweep, row) for sweep in sweeps for row in sweep.rows]
    return [(sweep, row) for sweep, row in named if any(one.state == "failed" for one in row.actions.values())]


def retry(ledger: Ledger, rows: Sequence[tuple[Sweep, Row]]) -> Iterator[Submission]:
    """Submits failed rows again, and what waits for them. Raises UserError as `submit`."""
    for sweep in {id(sweep): sweep for sweep, _ in rows}.values():
        paths = [row.job.run.path for owner, row in rows if owner is sweep]
        paths += [row.job.run.path for row in sweep.rows if row.state == "blocked" and set(row.job.after) & set(paths)]
        yield from submit(ledger, sweep.request, paths, again=True)[1]


def log_files(ledger: Ledger, job: Job, action: str | None, rank: int) -> list[Path]:
    """The logs of a run's jobs, of one action or of any; without a job of it, those of its processes on this machine."""
    elements = [one for (path, kind), found in ledger.elements().items() for one in found
                if path == job.run.path and action in (None, kind)]  # fmt: skip
    named = [ledger.job_folder(one.submission) / f"{one.id}_{rank}_log.{kind}"
             for one in sorted(elements, key=lambda one: one.submission.token) for kind in ("out", "err")]  # fmt: skip
    files = [path for path in named if path.exists()]
    if not files and action is None:
        files = sorted((job.run.path / "logs").glob("*_log.*"), key=lambda path: path.stat().st_mtime_ns)
    return files
