"""One scoring of an evaluation plan: a share of the looking or asking, and the score when all shares are there."""

import shlex
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluators.results import Evaluation, Share
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.devices import resolve_device
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.geneval_names import REWRITTEN
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.records import ITEM, EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.evaluations.actions import Drawing, Scoring, images_of
from rf_repro.evaluations.prompts import own_file, questions
from rf_repro.evaluations.recording import SampledRun, SystemImages, record
from rf_repro.evaluations.scenes import SCENES

Progress = Callable[[str, int, int], None]


def geneval_options(scoring: Scoring, device: str, **more: Any) -> Any:
    """`evaluators.geneval.Options` of a scoring's settings."""
    from evaluators.geneval import Options

    names = ("detector", "weights", "clip", "profile", "reference")
    return Options(**{name: scoring.get(name) for name in names}, device=device, **more)  # type: ignore[arg-type]


class Scorer:
    """
    Args:
        run: that is scored, or that stands for another system.
        config: of the run; of the scale, where it stands for a system.
        work: folder of replies and of what was seen, shared by all shares.
        device: of the models that look or answer: auto, cpu, cuda or mps.
        progress: called with (what, done, total); it may raise Stopped.
    """

    def __init__(
        self, run: RunDir, config: ExperimentConfig, scoring: Scoring, work: Path, device: str, progress: Progress
    ) -> None:
        self.run, self.config, self.scoring, self.work = run, config, scoring, work
        self.device, self.progress = device, progress

    def share(self, share: Share) -> None:
        """Looks at, or asks about, one share. Where there is one share alone, `finish` does all of it.

        Raises:
            UserError: as the benchmark's `evaluate_share`.
        """
        if share == (0, 1) or self._is_exact:
            return
        if self.scoring.images is None:
            from evaluators import understanding

            understanding.evaluate_share(questions(self.scoring), self._asking, share, progress=self.progress)
            return
        if self._is_elsewhere:
            self._run_elsewhere(share)
            return
        self._module.evaluate_share(self._images, self._options(), share, progress=self.progress)

    def finish(self) -> Path:
        """Scores what all shares have left, and records it in the run; the record's path.

        Raises:
            UserError: as the benchmark's `evaluate`, or something has no score.
        """
        if self.scoring.images is None:
            return self._answers()
        source = self._source
        if self._is_exact:
            from evaluators.geneval.options import GenEvalOptions
            from rf_repro.evaluations.scenes import score_scenes

            folder = ImageFolder(self._images)
            scored = score_scenes(
                folder, self.config.data.scenes, GenEvalOptions(), lambda done, total: self.progress("evaluate", done, total)
            )
            return source.record_geneval(scored, self._prompt_set(SCENES))
        if self._is_elsewhere:
            self._run_elsewhere((0, 1))
            path = self.work / "dpg.json"
            said = EvalResult.from_dict(read_json(path), str(path))
            return source.record_dpg(Evaluation.of(said, read_jsonl(self.work / "dpg.items.jsonl", ITEM)), None)
        result = self._module.evaluate(self._images, self._options(), progress=self.progress)
        match self.scoring.benchmark:
            case "geneval":
                return source.record_geneval(result, self._prompt_set(result.prompt_set))
            case "dpg":
                if result.unscored:
                    name, reason = next(iter(result.unscored.items()))
                    raise UserError(f"{self._images}: {len(result.unscored)} files have no score, first {name}: {reason}")
                return source.record_dpg(result, None if result.judge.is_mplug else result.judge.name)
        return source.record_judged(result)

    def _prompt_set(self, known_as: str) -> str:
        return REWRITTEN if self._drawing.rewritten else known_as

    @property
    def _is_exact(self) -> bool:
        """Whether scenes are scored by rules alone, which takes no shares."""
        return self.scoring.benchmark == "geneval" and self.scoring.get("detector") == SCENES

    @property
    def _is_elsewhere(self) -> bool:
        """Whether mPLUG looks, whose libraries need an environment of their own."""
        return self.scoring.benchmark == "dpg" and self.scoring.get("judge").partition(":")[0] == "mplug"

    def _run_elsewhere(self, share: Share) -> None:
        """The command line's `evaluate dpg` in the environment of mPLUG."""
        drawing, csv = self._drawing, own_file(self._drawing)
        command = [
            self.scoring.get("python"), "-m", "rf_repro.cli", "evaluate", "dpg", str(self._images), "--model",
            self.scoring.get("judge"), "--device", self.device, "--pic-num", str(drawing.num), "--out", str(self.work),
            "--shard", f"{share[0] + 1}/{share[1]}", *(["--csv", str(csv)] if csv else []),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            said = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{shlex.join(command)}: exit status {done.returncode}: {said}")

    @property
    def _drawing(self) -> Drawing:
        assert self.scoring.images is not None
        return self.scoring.images

    @property
    def _images(self) -> Path:
        return Path(self.scoring.folder) if self.scoring.folder else images_of(self.run, self._drawing)

    @cached_property
    def _source(self) -> SampledRun | SystemImages:
        if self.scoring.folder is not None:
            return SystemImages(self.run, self._drawing.size, self.config.max_image_size)
        sampled = SampledRun.open(self.run.path, self._images)
        assert sampled is not None
        return sampled

    @property
    def _module(self) -> Any:
        from evaluators import dpg, geneval, geneval2, geneval_vlm

        return {"geneval": geneval, "dpg": dpg, "geneval2": geneval2, "geneval-vlm": geneval_vlm}[self.scoring.benchmark]

    def _options(self) -> Any:
        """Of a benchmark of images."""
        drawing, digests = self._drawing, self._source.digests()
        if self.scoring.benchmark == "geneval":
            return geneval_options(
                self.scoring, self.device, prompts=drawing.prompts, images_per_prompt=drawing.num, digests=digests, out=self.work
            )
        from evaluators import dpg, geneval2, geneval_vlm
        from evaluators.vlm.options import default_batch_size, model_name

        judge = self.scoring.get("judge")
        common = {"model": judge, "device": self.device, "digests": digests, "out": self.work}
        match self.scoring.benchmark:
            case "dpg":
                return dpg.Options(
                    **common, name=Path(model_name(judge)).name, csv=own_file(drawing), pic_num=4 if drawing.num == 4 else 1,
                    batch_size=default_batch_size(judge, self.device),
                )  # fmt: skip
            case "geneval2":
                return geneval2.Options(**common, name=model_name(judge), data=drawing.prompts)
        return geneval_vlm.Options(**common, name=model_name(judge), prompts=drawing.prompts, images_per_prompt=drawing.num)

    @cached_property
    def _asking(self) -> Any:
        """Options of questions to the run itself, whose model is loaded once."""
        from evaluators.understanding import Options
        from rf_repro.experiment.vlm import load_rf_vlm

        device = resolve_device(self.device)
        return Options(
            model=load_rf_vlm(self.run, device), batch_size=1 if device.type == "cpu" else 8, out=self.work,
            data=self.scoring.get("data"), protocol=self.scoring.get("protocol"), limit=self.scoring.get("limit"),
        )  # fmt: skip

    def _answers(self) -> Path:
        from ablations.questions import benchmark_evaluation
        from evaluators import understanding

        result = understanding.evaluate(questions(self.scoring), self._asking, progress=self.progress)
        return record(self.run, benchmark_evaluation(self.scoring.benchmark), result, step=self.run.record().steps, weights="ema")
