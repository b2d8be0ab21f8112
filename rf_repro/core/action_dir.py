"""What is kept of an evaluation of a run: `RUN/actions/<action>/`, with a folder for each share of the work.

record.json            ActionRecord: with it the action is done
3-of-8/share.json      ShareRecord: attempts at a share of the work; beside it its lock and progress.json
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rf_repro.core.file_lock import lock_holder
from rf_repro.core.files import read_json, write_json
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.outputs import absent, changed, require_unchanged
from rf_repro.core.records import LATER, Attempt, strict
from rf_repro.core.run_dir import RunDir

Share = tuple[int, int]  # (index from 0, count) of the shares of an action's work


@dataclass(frozen=True)
class ActionRecord:
    """`record.json`: what was done, by which settings, and under which names the run keeps the results."""

    name: str
    digest: str
    settings: dict[str, Any]
    results: list[str]
    finished: str
    outputs: dict[str, str] = field(default_factory=dict, metadata=LATER)  # path below the run -> SHA-256, of images read too


@dataclass(frozen=True)
class ShareRecord:
    """`share.json`. `done`: this share's work is, by the settings of `digest`."""

    digest: str
    done: bool = False
    failed: bool = False
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True)
class ShareDir:
    """One share of an action."""

    path: Path

    @property
    def progress_path(self) -> Path:
        return self.path / "progress.json"

    def holder(self) -> int | None:
        """The pid of the process that works on it; None: nobody does."""
        return lock_holder(self.path / ".lock")

    def record(self) -> ShareRecord | None:
        """None before the first attempt. Raises UserError when it is not of this version."""
        path = self.path / "share.json"
        return strict(ShareRecord, read_json(path), str(path)) if path.exists() else None

    def has_done(self, digest: str) -> bool:
        """Whether this share's work was done by the settings of `digest`."""
        record = self.record()
        return record is not None and record.done and record.digest == digest

    def write(self, record: ShareRecord) -> None:
        write_json(self.path / "share.json", asdict(record))


@dataclass(frozen=True)
class ActionDir:
    """An action of a run on disk."""

    path: Path

    @classmethod
    def of(cls, run: RunDir, name: str) -> "ActionDir":
        return cls(run.path / "actions" / name)

    def share(self, share: Share) -> ShareDir:
        index, count = share
        return ShareDir(self.path / f"{index + 1}-of-{count}")

    def shares(self, count: int) -> list[ShareDir]:
        return [self.share((index, count)) for index in range(count)]

    def begun(self) -> list[ShareDir]:
        """Every share that was worked on, however the action was shared out then."""
        return [ShareDir(path.parent) for path in sorted(self.path.glob("*-of-*/share.json"))]

    def record(self) -> ActionRecord | None:
        """None until the action is done. Raises UserError when it is not of this version."""
        path = self.path / "record.json"
        return strict(ActionRecord, read_json(path), str(path)) if path.exists() else None

    def finish(self, record: ActionRecord) -> None:
        write_json(self.path / "record.json", asdict(record))

    def has_done(self, digest: str) -> bool:
        """Whether it was done by the settings of `digest`, and all that it left is there as it was written."""
        record = self.record()
        return record is not None and record.digest == digest and self.is_whole(record)

    def is_whole(self, record: ActionRecord) -> bool:
        """Whether all that the record lists is there as it was written; of a drawing, every image is there."""
        run = self.path.parents[1]
        if absent(run, record.outputs) or changed(run, record.outputs):
            return False
        return bool(record.results) or not any(ImageFolder((run / name).parent).missing() for name in record.outputs)

    def reopen(self, record: ActionRecord) -> None:
        """Takes the record back, and that shares are done, so that what was lost is made again.

        Raises:
            UserError: a file holds something else than what was written.
        """
        listed = record.outputs
        own = {name: digest for name, digest in listed.items() if not (record.results and name.startswith("images/"))}
        require_unchanged(self.path.parents[1], own)
        for share in self.begun():
            if (done := share.record()) is not None:
                share.write(replace(done, done=False))
        (self.path / "record.json").unlink()


def failed_shares(run: RunDir) -> list[ShareDir]:
    """Of all evaluations of a run, those whose last attempt failed."""
    shares = [ShareDir(path.parent) for path in sorted(run.path.glob("actions/*/*-of-*/share.json"))]
    return [share for share in shares if (record := share.record()) is not None and record.failed]


def all_attempts(run: RunDir) -> list[Attempt]:
    """At the run itself and at every evaluation of it."""
    found = list(run.record().attempts)
    for path in sorted(run.path.glob("actions/*/*-of-*/share.json")):
        record = ShareDir(path.parent).record()
        found += record.attempts if record else []
    return found
