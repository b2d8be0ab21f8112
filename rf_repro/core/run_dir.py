"""A run's folder: `runs/<scale>/<variant>/<hash12>-s<seed>/`. The same experiment asked for twice is one folder."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl, read_object, remove_leftovers, write_json
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.outputs import absent, changed
from rf_repro.core.records import ITEM, METRICS, EvalResult, RunRecord
from rf_repro.core.results import write_result

SCRATCH = ".scratch-"
OWN = re.compile(  # what is ever in a run's folder besides run.json and hidden files
    r"config\.json|metrics\.jsonl|progress\.json|(contact|wrong)_sheet\.png|checkpoints|samples|evals|images|actions|logs|earlier-\d+"
)


@dataclass(frozen=True)
class RunDir:
    """Names of the files of one run.

    config.json  the whole config        metrics.jsonl  one row a logged step     evals/    EvalResult records and items
    run.json     RunRecord               checkpoints/   step-XXXXXX folders       samples/  ImageFolder of the final images
    """

    path: Path

    @classmethod
    def create(cls, root: Path, config: dict[str, Any], config_hash: str, scale: str, variant: str, seed: int) -> "RunDir":
        """Makes or reopens the run's folder.

        Args:
            root: folder of all runs.
            config: JSON-ready experiment config.
            config_hash: hash of its result-affecting fields.

        Raises:
            UserError: the folder belongs to another experiment, holds something else, or cannot be written.
        """
        run = cls.locate(root, config_hash, scale, variant, seed)
        if run.path.exists() and not run.path.is_dir():
            raise UserError(f"{run.path}: is a file, not a run directory; move it away")
        if run.record_path.exists():
            record = run.record()
            if (record.config_hash, record.seed, record.variant) != (config_hash, seed, variant):
                raise UserError(
                    f"{run.path}: holds {record.variant} seed {record.seed} with config {record.config_hash[:12]}, not "
                    f"{variant} seed {seed} with {config_hash[:12]}; choose another --runs folder"
                )
            run._write_config(config)
            return run
        if run.path.exists() and any(run.path.iterdir()):
            strangers = sorted(item.name for item in run.path.iterdir() if not item.name.startswith("."))
            foreign = [name for name in strangers if not OWN.fullmatch(name)]
            if foreign:  # else it was killed between the two writes below, or run.json is lost
                raise UserError(f"{run.path}: is not a run directory (holds {foreign[0]}, no run.json); choose another --runs")
        run._write_config(config)
        run.write_record(RunRecord(scale=scale, variant=variant, seed=seed, config_hash=config_hash))
        return run

    def _write_config(self, config: dict[str, Any]) -> None:
        """Unless it is there. Raises UserError where it is and cannot be read."""
        if self.config_path.exists():
            self.config()
        else:
            write_json(self.config_path, config)

    @classmethod
    def locate(cls, root: Path, config_hash: str, scale: str, variant: str, seed: int) -> "RunDir":
        """The run's folder by name; nothing is read or written."""
        return cls(Path(root) / scale / variant / f"{config_hash[:12]}-s{seed}")

    @classmethod
    def open(cls, path: Path, named: str = "") -> "RunDir":
        """The run in a folder that a user names.

        Args:
            named: the option that names it, such as `--run`, for the message.

        Raises:
            UserError: it is none.
        """
        run = cls(Path(path))
        if not run.record_path.exists():
            raise UserError(
                f"{named} {path}".lstrip() + ": is not a run directory (no run.json); `rf-repro plan` prints their paths"
            )
        return run

    @classmethod
    def find(cls, root: Path) -> "list[RunDir]":
        """Every run below `root`, in path order."""
        return [cls(path.parent) for path in sorted(Path(root).glob("**/run.json"))]

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def progress_path(self) -> Path:
        return self.path / "progress.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def images(self) -> ImageFolder:
        """The samples, with their manifest."""
        return ImageFolder(self.samples)

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for the block, on the disk that was chosen for the run: the system's own may be small, or memory."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self.path))
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot make a folder in it ({error.strerror}); free space or choose another --runs"
            ) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what cannot go now goes at the run's next start

    def remove_leftovers(self) -> None:
        """Removes what a killed process left. For the one that holds the run's lock."""
        for folder in self.path.glob(f"{SCRATCH}*"):
            shutil.rmtree(folder, ignore_errors=True)  # it only takes room, and is no reason against a run
        remove_leftovers(self.path)

    def config(self) -> dict[str, Any]:
        return read_object(self.config_path)

    def record(self) -> RunRecord:
        return RunRecord.from_dict(read_json(self.record_path), str(self.record_path))

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_path, record.to_dict())

    def has_done(self, action: str, steps: int) -> bool:
        """Whether the action left its record, and all that the record lists is there as it was written.

        A record of before outputs were listed, and a published one, is believed.

        Args:
            steps: optimiser steps that the run is to train.
        """
        record = self.record() if self.record_path.exists() else None
        if record is None or (action == "train" and record.status != "done" and record.steps < steps):
            return False
        listed = record.outputs.get(action)
        if listed is not None:
            is_whole = not absent(self.path, listed) and not changed(self.path, listed)
            return is_whole and (action != "sample" or self.images.is_complete())
        if record.outputs or record.status != "done":
            return action == "train" or (action == "sample" and self.images.is_complete())
        return True

    def is_trained(self) -> bool:
        """Whether its training left its record, whatever of sampling and scoring is still to be done."""
        if not self.record_path.exists():
            return False
        record = self.record()
        if record.status == "done" and not record.outputs:
            return True
        return self.has_done("train", self.config()["stages"][-1]["steps"])

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; empty before the first."""
        return read_jsonl(self.metrics_path, METRICS, float | None) if self.metrics_path.exists() else []

    def eval_names(self) -> list[str]:
        """Names of the evaluations done, e.g. `geneval`, `geneval-step000500`."""
        return sorted(path.stem for path in self.evals.glob("*.json"))

    def eval_result(self, name: str) -> EvalResult | None:
        """The evaluation of that name, or None when it has not been run."""
        path = self.evals / f"{name}.json"
        return EvalResult.from_dict(read_json(path), str(path)) if path.exists() else None

    def write_eval(self, name: str, result: EvalResult, rows: Sequence[Mapping[str, Any]] | None = None) -> Path:
        """Writes the items, if there are some, then the record: its existence marks the evaluation done. Returns its path."""
        return write_result(self.evals, name, result, rows)

    def eval_items(self, name: str) -> list[dict[str, Any]]:
        """Per-item rows of an evaluation; published runs have them compressed."""
        plain = self.evals / f"{name}.items.jsonl"
        return read_jsonl(plain if plain.exists() else plain.with_name(f"{plain.name}.gz"), ITEM)
