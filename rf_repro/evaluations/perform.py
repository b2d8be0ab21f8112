"""Carries out an action of an evaluation plan, or a share of it. Every share leaves its part where the others find it, and
whoever ends last puts the parts together, so that shares may run at the same time, be killed, and go on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rf_repro.compute.arithmetic import arithmetic
from rf_repro.compute.devices import resolve_device
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.action_dir import ActionDir, ActionRecord, Share, ShareDir, ShareRecord
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.outputs import digests
from rf_repro.core.provenance import utc_now
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.evaluations.actions import Drawing, Evaluation, Scoring, images_of, stale_reason
from rf_repro.evaluations.prompts import prompt_rows
from rf_repro.evaluations.score import Scorer
from rf_repro.evaluations.self_check import self_check_once
from rf_repro.experiment.attempt import new_attempt, progress_writer
from rf_repro.experiment.sampling import sample_prompts

MERGE_PATIENCE = 3600.0  # seconds that a share may wait for another that puts the parts together


@dataclass(frozen=True)
class Work:
    """A share of an action, and where it is done.

    Attributes:
        config: of the run; of the scale, where the run stands for another system.
        judged_by: the scorings that will look at what a drawing draws; their models are checked before it begins.
        stop: asked between batches.
    """

    run: RunDir
    config: ExperimentConfig
    action: Evaluation
    share: Share
    device: str
    threads: int
    judged_by: Sequence[Scoring] = ()
    stop: Callable[[], bool] = lambda: False

    @property
    def folder(self) -> ActionDir:
        return ActionDir.of(self.run, self.action.name)


def perform(work: Work) -> bool:
    """Does the share unless it is done, and puts the parts together where it is the last.

    Returns:
        Whether the action is done.

    Raises:
        Stopped: `stop` said so; a later call goes on from there.
        UserError: among others, before its turn, or where images of other settings are in the way.
    """
    action, folder = work.action, work.folder
    if (done := folder.record()) is not None and done.digest != action.digest:
        raise UserError(f"{work.run.path}: {action.name}: {stale_reason(work.run, action)}")
    if folder.has_done(action.digest):
        return True
    require_turn(work.run, work.config, action)
    if done is not None:
        with run_lock(folder.path, MERGE_PATIENCE):
            if (done := folder.record()) is not None and not folder.is_whole(done):  # another share was not quicker
                folder.reopen(done)
    share = folder.share(work.share)
    scorer = _scorer(work, share)
    if not share.has_done(action.digest):
        with _attempt(work, share):
            _do(work, share, scorer)
            if work.share[1] == 1:
                _finish(work, scorer)
                return True
    with run_lock(folder.path, MERGE_PATIENCE):
        if not folder.has_done(action.digest) and all(one.has_done(action.digest) for one in folder.shares(work.share[1])):
            with _attempt(work, share):
                _finish(work, scorer)
    return folder.has_done(action.digest)


def require_turn(run: RunDir, config: ExperimentConfig, action: Evaluation) -> None:
    """Raises UserError unless the run has what the action starts from."""
    for before in action.after:
        if before == "train":
            done = run.has_done("train", config.stages[-1].steps)
        else:
            folder = ActionDir.of(run, before)
            record = folder.record()
            done = record is not None and folder.is_whole(record)
        if not done:
            raise UserError(f"{run.path}: {action.name} comes after {before}, which is not done")


def _scorer(work: Work, share: ShareDir) -> Scorer | None:
    """Of a scoring: whatever it loads serves its share and the score."""
    if isinstance(work.action, Drawing):
        return None
    progress = progress_writer(share.progress_path, work.stop)
    return Scorer(work.run, work.config, work.action, work.folder.path / "work", work.device, progress)


def _do(work: Work, share: ShareDir, scorer: Scorer | None) -> None:
    torch.set_num_threads(work.threads)
    if scorer is not None:
        scorer.share(work.share)
        return
    drawing, progress = work.action, progress_writer(share.progress_path, work.stop)
    assert isinstance(drawing, Drawing)
    for scoring in work.judged_by:
        self_check_once(scoring, work.run, work.device)
    sample_prompts(
        work.run, prompt_rows(drawing), drawing.num, images_of(work.run, drawing), drawing.seed, work.device,
        lambda done, total: progress("sample", done, total), size=(drawing.size, drawing.size), shard=work.share,
    )  # fmt: skip


def _finish(work: Work, scorer: Scorer | None) -> None:
    action, results, files = work.action, list[Path](), list[Path]()
    if scorer is not None:
        results = [scorer.finish()]
        files = [path for name in results for path in work.run.evals.glob(f"{name.stem}.*")]
    elif isinstance(action, Drawing) and not ImageFolder(images_of(work.run, action)).is_complete():
        raise UserError(f"{images_of(work.run, action)}: images are missing; run the action again")
    if isinstance(images := action if isinstance(action, Drawing) else action.images, Drawing):
        manifest = ImageFolder(images_of(work.run, images)).manifest_path
        files += [manifest] if manifest.exists() else []  # another system's are elsewhere
    settings = {key: value for key, value in asdict(action).items() if value is not None}
    work.folder.finish(
        ActionRecord(
            action.name, action.digest, settings, [path.stem for path in results], utc_now(), digests(work.run.path, files)
        )
    )


@contextmanager
def _attempt(work: Work, share: ShareDir) -> Iterator[None]:
    """Records who works on the share, and how that ends."""
    device = resolve_device(work.device)
    begun = new_attempt(work.action.name, device, work.threads, arithmetic(work.config.optim.precision, device))
    before = share.record()
    attempts = before.attempts if before is not None else []
    was_done = share.has_done(work.action.digest)
    share.write(ShareRecord(work.action.digest, was_done, False, [*attempts, begun]))
    begin = time.monotonic()

    def end(done: bool, failed: bool, error: str | None) -> None:
        ended = replace(begun, seconds=round(time.monotonic() - begin, 1), error=error)
        share.write(ShareRecord(work.action.digest, done, failed, [*attempts, ended]))

    try:
        yield
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        end(was_done, failed, f"{type(error).__name__}: {error}")
        raise
    end(True, False, None)
