"""A score as a record of the run that it is of: the one place that writes one, and what a run must be for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.results import Evaluation
from rf_repro.config.overrides import config_of
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.dpg_names import dpg_name
from rf_repro.core.errors import UserError
from rf_repro.core.geneval_names import geneval_name
from rf_repro.core.hashing import content_hash
from rf_repro.core.image_folder import ImageFolder, Origin
from rf_repro.core.run_dir import RunDir
from rf_repro.worlds import world_of


def record(run: RunDir, name: str, result: Evaluation, *, step: int, weights: str) -> Path:
    """Writes the result and its items into the run's evaluations; the record's path."""
    return run.write_eval(name, replace(result, step=step, weights=weights), result.rows)


def open_run(path: Path, own: str) -> tuple[RunDir, ExperimentConfig]:
    """The run of `--run`, with its config.

    Args:
        own: what a run that its world scores has of its own, for the message.

    Raises:
        UserError: it is no run, or its world scores it.
    """
    run = RunDir.open(path, "--run")
    config = config_of(run)
    if world_of(config).scores_itself:
        raise UserError(f"--run {path}: a run of the {config.data.world} world has its {own}; leave --run out")
    return run, config


@dataclass(frozen=True)
class SampledRun:
    """A run and a folder of its images, which `rf-repro sample` made."""

    run: RunDir
    folder: ImageFolder
    origin: Origin

    @classmethod
    def open(cls, run_path: Path | None, images: Path) -> "SampledRun | None":
        """None without a run. Raises UserError when there is no such run, or the folder is incomplete or not of this run."""
        if run_path is None:
            return None
        run, config = open_run(run_path, "scores already")
        folder = ImageFolder(images)
        origin, own = folder.origin(), run.record()
        if origin is None:
            raise UserError(f"{images}: has no origin.json; --run takes images that `rf-repro sample` made")
        made = (origin.scale, origin.variant, origin.run_seed, origin.config_hash)
        if made != (own.scale, own.variant, own.seed, own.config_hash):
            raise UserError(
                f"{images}: holds images of {origin.scale}/{origin.variant}/{origin.config_hash[:12]}-s{origin.run_seed}, "
                f"not of --run {run_path}"
            )
        if origin.step != config.stages[-1].steps:
            raise UserError(
                f"{images}: holds images of step {origin.step} of {config.stages[-1].steps}; a run's record is of its end: train "
                "it to the end, then sample into a new folder"
            )
        if not folder.is_complete():
            raise UserError(f"{images}: is not complete; run `rf-repro sample` again, then score it")
        return cls(run, folder, origin)

    def digests(self) -> Mapping[tuple[int, int], str]:
        """(prompt id, sample) -> SHA-256 of the image that was sampled."""
        return {(entry.prompt_id, entry.sample): entry.sha256 for entry in self.folder.entries()}

    def record_geneval(self, result: Evaluation, prompt_set: str) -> Path:
        """Records GenEval's result and, for the tables' own, sheets of some images; the record's path, as all below return it.

        The protocol then names the images' size: results of other sizes are never put in one column.
        """
        from ablations.grid import GENEVAL
        from reports.contact_sheet import SHEETS, make_sheet, require_scored

        config = config_of(self.run)
        largest = world_of(config).drawn_size(config)
        name = geneval_name(self.origin.height, self.origin.width, largest, prompt_set)
        if name == GENEVAL.evaluation:
            for file, choose in SHEETS.items():
                sheet = make_sheet(self.folder, choose(result.rows, GENEVAL.tasks))
                if sheet is None:
                    (self.run.path / file).unlink(missing_ok=True)
                else:
                    require_scored(sheet).save(self.run.path / file)
        return self._record(name, self._sized(result))

    def record_dpg(self, result: Evaluation, judge: str | None) -> Path:
        """Records DPG-Bench's result. `judge`: its name; None: mPLUG."""
        return self._record(dpg_name(self.origin.height, self.origin.width, judge), result)

    def record_judged(self, result: Evaluation) -> Path:
        """Records a result of any other benchmark that a model judges.

        The name holds 8 hex digits of protocol, images' size and judge: a run keeps the results of several judges.
        """
        result = self._sized(result)
        return self._record(judged_name(result), result)

    def _sized(self, result: Evaluation) -> Evaluation:
        return replace(result, protocol=f"{result.protocol}, {self.origin.height}x{self.origin.width} px")

    def _record(self, name: str, result: Evaluation) -> Path:
        return record(self.run, name, result, step=self.origin.step, weights=self.origin.weights)


@dataclass(frozen=True)
class SystemImages:
    """Another system, and images of its own that are taken to be of a table's size: each model draws its own.

    Attributes:
        run: where its scores are kept.
        size: pixels a side of the table's images.
        largest: that the scale's model draws.
    """

    run: RunDir
    size: int
    largest: int

    def digests(self) -> None:
        """Nobody has said which images they must be."""
        return

    def record_geneval(self, result: Evaluation, prompt_set: str) -> Path:
        return self.run.write_eval(geneval_name(self.size, self.size, self.largest, prompt_set), result, result.rows)

    def record_dpg(self, result: Evaluation, judge: str | None) -> Path:
        return self.run.write_eval(dpg_name(self.size, self.size, judge), result, result.rows)

    def record_judged(self, result: Evaluation) -> Path:
        return self.run.write_eval(judged_name(result), result, result.rows)


def judged_name(result: Evaluation) -> str:
    """With 8 hex digits of protocol and judge."""
    judge = {name: value for name, value in result.evaluator.items() if name != "batch_size"}
    return f"{result.benchmark}-{content_hash([result.protocol, judge])[:8]}"
