"""Hands what a grid still needs to SLURM: arrays by resources, chained action by action, one report job at the end.

Rows that need the same actions with the same resources after the same stages are one array an action, so the number of
sbatch calls depends on the shape of the grid and not on its length.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from rf_repro.core.errors import UserError
from rf_repro.core.records import Action
from rf_repro.launch.jobs import RunJob
from rf_repro.launch.plan import Job
from slurm import requeue
from slurm.jobs import ReportJob, SlurmJob
from slurm.profile import Profile
from slurm.resources import Resources
from slurm.state import Row
from slurm.submission import Ledger, Request, Submission

OPEN = ("missing", "resumable")
Elements = Mapping[tuple[Path, str], str]  # (run directory, action) -> job id of what has to end before
MAX_TIMEOUTS = 10**6  # Submitit's own limit; ours is on starts that get nowhere


@dataclass(frozen=True)
class Group:
    """Rows of one shape: one array for each action.

    Attributes:
        after: for every row, the actions of other runs that are still to be done.
    """

    jobs: tuple[Job, ...]
    actions: tuple[Action, ...]
    after: tuple[tuple[tuple[Path, str], ...], ...]
    resources: tuple[Resources, ...]  # of each action


def _open_actions(row: Row, reach: Mapping[tuple[Path, str], bool], again: bool) -> tuple[Action, ...]:
    """The actions of a row to submit now: what is missing and can be reached.

    Args:
        reach: whether an action of another run is done, under way or about to be.
        again: failed actions count as missing.
    """
    wanted: list[Action] = []
    if not all(reach[path, "train"] for path in row.job.after):
        return ()
    for action, one in row.actions.items():
        if one.state in OPEN or (again and one.state in ("failed", "blocked")) or (one.state == "blocked" and wanted):
            wanted.append(action)
        elif one.state in ("failed", "blocked", "stale"):
            break
    return tuple(wanted)


def group_rows(rows: Sequence[Row], profile: Profile, max_array: int, again: bool = False) -> list[Group]:
    """What to submit, in an order in which everything comes after what it needs."""
    reach: dict[tuple[Path, str], bool] = {}
    grouped: dict[tuple[object, ...], list[tuple[Job, tuple[tuple[Path, str], ...]]]] = {}
    untrained = {row.job.run.path for row in rows if row.actions["train"].state != "done"}
    own = {row.job.run.path for row in rows if row.job.kind in ("own stage", "variant")}  # where another run starts from it
    for row in rows:
        job, wanted = row.job, _open_actions(row, reach, again)
        for action, one in row.actions.items():
            reach[job.run.path, action] = action in wanted or one.state == "done" or one.job is not None
        if not wanted:
            continue
        after = tuple((path, "train") for path in job.after if path in untrained)
        first = job.actions.index(wanted[0])
        if first and row.actions[job.actions[first - 1]].job is not None:
            after = (*after, (job.run.path, job.actions[first - 1]))
        resources = tuple(profile.resources(action, single=job.single) for action in wanted)
        # A stage comes after all that it names; so does a variant that goes on from another.
        depth = len(job.after) if job.kind != "variant" else 10**6 + sum(path in own for path in job.after)
        # Without its seed: the arrays of a stage hold all seeds, and those of what follows too. A variant's own stages differ
        # from row to row, and stand in their array as the rows do in theirs.
        shape = tuple(
            (action, "own" if path in own and path != job.run.path else (path.parent.name, path.name.rpartition("-s")[0]))
            for path, action in after
        )
        grouped.setdefault((depth, wanted, shape, resources), []).append((job, after))
    return [
        Group(tuple(job for job, _ in chunk), key[1], tuple(after for _, after in chunk), key[3])  # type: ignore[arg-type]
        for key, members in sorted(grouped.items(), key=lambda item: item[0][0])  # type: ignore[arg-type, return-value]
        for chunk in (members[begin : begin + max_array] for begin in range(0, len(members), max_array))
    ]


def dependency(after: Sequence[Sequence[tuple[Path, str]]], known: Elements) -> str | None:
    """SLURM's expression for an array whose element i comes after `after[i]`.

    One job for all elements: `afterok`. Element i after element i of another array: `aftercorr`, so that rows fail alone.
    Anything else: `afterany` on whole arrays, and a job that starts before its turn says so.
    """
    terms = []
    for slot in zip(*after, strict=True):
        ids = [known[one] for one in slot]
        arrays = list(dict.fromkeys(one.split("_")[0] for one in ids))
        if len(set(ids)) == 1:
            terms.append(f"afterok:{ids[0]}")
        elif len(arrays) == 1 and all(one == f"{arrays[0]}_{index}" for index, one in enumerate(ids)):
            terms.append(f"aftercorr:{arrays[0]}")
        else:
            terms.append(f"afterany:{':'.join(arrays)}")
    return ",".join(dict.fromkeys(terms)) or None


class Submitter:
    """Makes the sbatch calls of a request; `dry`: prints their text instead and needs no SLURM.

    Args:
        known: job ids of what is in the queue already.
        show: takes the text of each call.
    """

    def __init__(
        self,
        ledger: Ledger,
        request: Request,
        profile: Profile,
        snapshot: Path,
        known: Elements,
        dry: Callable[[str], None] | None,
    ) -> None:
        self.ledger, self.request, self.profile, self.snapshot = ledger, request, profile, snapshot
        self.known, self.dry = dict(known), dry
        self.submitted: list[Submission] = []

    def submit_group(self, group: Group) -> None:
        """One sbatch call for each action of the group."""
        after = group.after
        for action, resources in zip(group.actions, group.resources, strict=True):
            paths = [job.run.path.absolute() for job in group.jobs]
            submission = self._sbatch(action, paths, resources, dependency(after, self.known), group.jobs)
            for index, job in enumerate(group.jobs):
                self.known[job.run.path, action] = str(submission.element(index))
            after = tuple(((job.run.path, action),) for job in group.jobs)

    def submit_report(self) -> None:
        """One job after all jobs of the grid, however they end."""
        arrays = list(dict.fromkeys(one.split("_")[0] for one in self.known.values()))
        after = f"afterany:{':'.join(arrays)}" if arrays else None
        self._sbatch("report", [], self.profile.resources("report"), after, ())

    def _sbatch(
        self,
        action: Action | Literal["report"],
        paths: Sequence[Path],
        resources: Resources,
        after: str | None,
        jobs: Sequence[Job],
    ) -> Submission:
        ledger, profile = self.ledger, self.profile
        if self.dry is not None:
            submission = Submission(f"dry-run-{action}", action, [str(path) for path in paths], "", "", "")
            submission = replace(submission, job_id=f"<{len(self.submitted) + 1}:{action}>")
        else:
            submission = ledger.new(action, paths, self.request, self.snapshot)
        folder = ledger.job_folder(submission)
        parameters = self._parameters(submission, folder, resources, after)
        if self.dry is not None:
            count = len(jobs) if len(jobs) > 1 else None
            python = profile.python or "python"
            command = f"{python} -u -m submitit.core._submit {folder}"
            self.dry(_make_sbatch_string(command=command, folder=folder, map_count=count, **parameters))
        else:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS, python=profile.python)
            executor.update_parameters(**parameters)
            calls = self._calls(submission, jobs)
            try:
                with _outside_any_job(), executor.batch() if len(calls) > 1 else nullcontext():
                    handles = [executor.submit(call) for call in calls]
            except submitit.core.utils.FailedJobError as error:
                said = [line for line in str(error).splitlines() if "error:" in line] or str(error).splitlines()[-1:]
                raise UserError(
                    f"sbatch refused the {action} jobs: {said[-1].strip()}; {len(self.submitted)} arrays went through before it, "
                    "mend the profile and submit again for the rest"
                ) from None
            submission = replace(submission, job_id=handles[0].job_id.split("_")[0])
            ledger.write(submission)
        self.submitted.append(submission)
        return submission

    def _parameters(self, submission: Submission, folder: Path, resources: Resources, after: str | None) -> dict[str, Any]:
        profile = self.profile
        parameters = profile.slurm_parameters(resources, mounts=(self.ledger.runs,))  # which holds the snapshots too
        code = shlex.quote(str(self.snapshot))
        # A container's working folder may hold anything: Python must not look there.
        enter = [f"cd {code}", "export PYTHONSAFEPATH=1", f'export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}"']
        starts = [] if submission.action == "report" else requeue.setup(folder, profile.max_crashes)
        ends = [] if submission.action == "report" else requeue.TEARDOWN
        return {
            **parameters,
            "job_name": f"rf-{submission.action}",
            "wckey": None,  # Submitit's own, which a cluster that enforces them refuses
            "comment": submission.token,
            "dependency": after,
            "array_parallelism": self.request.max_parallel or profile.max_parallel or max(1, len(submission.runs)),
            "setup": [*(parameters.get("setup") or []), *enter, *starts],
            "teardown": ends,
            "srun_args": [*(parameters.get("srun_args") or []), "--kill-on-bad-exit=1"],
            "additional_parameters": {
                **(parameters.get("additional_parameters") or {}),
                "kill-on-invalid-dep": "yes",  # else what comes after a failed row waits in the queue for ever
                "requeue": True,
            },
        }

    def _calls(self, submission: Submission, jobs: Sequence[Job]) -> list[Callable[[], object]]:
        runs, folder, profile = self.ledger.runs, self.ledger.job_folder(submission), self.profile
        action = submission.action
        if action == "report":
            asked = self.request
            return [ReportJob(runs, Path(asked.out), asked.scale, asked.overrides, asked.tables, self.snapshot)]
        return [
            SlurmJob(
                RunJob(job, runs, profile.device, profile.threads_of(action), (action,)),
                self.snapshot, folder / f"requeue-{index}", profile.max_crashes,
            )
            for index, job in enumerate(jobs)
        ]  # fmt: skip


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Submitting from inside a job must not inherit its environment; elsewhere SBATCH_ variables are the user's own."""
    with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        yield
