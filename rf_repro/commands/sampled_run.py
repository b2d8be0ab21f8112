"""A score of a folder of images as a record of the run that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rf_repro.config.overrides import from_dict
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_jsonl
from rf_repro.core.geneval_names import geneval_name
from rf_repro.core.hashing import content_hash
from rf_repro.core.image_folder import ImageFolder, Origin
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir


@dataclass(frozen=True)
class SampledRun:
    """A run and a folder of its images, which `rf-repro sample` made."""

    run: RunDir
    folder: ImageFolder
    origin: Origin

    @classmethod
    def open(cls, run_path: Path, images: Path) -> "SampledRun":
        """Raises UserError when there is no such run, or the folder is incomplete or not of this run."""
        run, folder = RunDir(run_path), ImageFolder(images)
        if not run.record_path.exists():
            raise UserError(f"--run {run_path}: is not a run directory (no run.json); `rf-repro plan` prints their paths")
        config = from_dict(run.config())
        if config.data.world == "scenes":
            raise UserError(f"--run {run_path}: a run of the scenes world has its scores already; leave --run out")
        origin, record = folder.origin(), run.record()
        if origin is None:
            raise UserError(f"{images}: has no origin.json; --run takes images that `rf-repro sample` made")
        own = (record.scale, record.variant, record.seed, record.config_hash)
        if own != (origin.scale, origin.variant, origin.run_seed, origin.config_hash):
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

    def require(self, digests: Mapping[tuple[int, int], str]) -> None:
        """Raises UserError when an image to be scored, (prompt id, sample) -> SHA-256, is not the one that was sampled."""
        made = {(entry.prompt_id, entry.sample): entry.sha256 for entry in self.folder.entries()}
        for key, digest in digests.items():
            if made.get(key) != digest:
                raise UserError(
                    f"{self.folder.image_path(*key)}: is not the image that the run made; sample into a new folder, then score it"
                )

    def record(self, result: EvalResult, rows: Sequence[Mapping[str, Any]], prompt_set: str) -> Path:
        """Writes the result, its items and, for the tables' own, sheets of some images into the run; returns the record's path.

        The protocol then names the images' size: results of other sizes are never put in one column.
        """
        from ablations.grid import GENEVAL
        from reports.contact_sheet import SHEETS, make_sheet

        size = self.origin.height, self.origin.width
        name = geneval_name(*size, from_dict(self.run.config()).max_image_size, prompt_set)
        items = f"{name}.items.jsonl"
        write_jsonl(self.run.evals / items, [dict(row) for row in rows])
        if name == GENEVAL.evaluation:
            for file, choose in SHEETS.items():
                sheet = make_sheet(self.folder, choose(rows, GENEVAL.tasks))
                if sheet is None:
                    (self.run.path / file).unlink(missing_ok=True)
                else:
                    sheet.save(self.run.path / file)
        protocol = f"{result.protocol}, {size[0]}x{size[1]} px"
        marked = replace(result, protocol=protocol, step=self.origin.step, weights=self.origin.weights, items=items)
        self.run.write_eval(name, marked)
        return self.run.evals / f"{name}.json"

    def record_judged(self, result: EvalResult, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Writes a result of any benchmark that a model judges, and its items, into the run; returns the record's path.

        The name holds 8 hex digits of protocol, images' size and judge: a run keeps the results of several judges.
        """
        protocol = f"{result.protocol}, {self.origin.height}x{self.origin.width} px"
        judge = {name: value for name, value in result.evaluator.items() if name != "batch_size"}
        name = f"{result.benchmark}-{content_hash([protocol, judge])[:8]}"
        items = f"{name}.items.jsonl"
        write_jsonl(self.run.evals / items, [dict(row) for row in rows])
        marked = replace(result, protocol=protocol, step=self.origin.step, weights=self.origin.weights, items=items)
        self.run.write_eval(name, marked)
        return self.run.evals / f"{name}.json"
