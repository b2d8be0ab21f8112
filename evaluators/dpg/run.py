"""DPG-Bench on a folder of images: scan, ask, score."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators.devices import device_of
from evaluators.dpg import mplug
from evaluators.dpg.data import Benchmark, load
from evaluators.dpg.folder import Scan, scan, write_grids
from evaluators.dpg.judge import Judge
from evaluators.dpg.outcome import Compat, DPGEvaluation, score_replies
from evaluators.fields import at_least_one
from evaluators.problems import report_problems
from evaluators.results import ALL, Progress, Share, Tell, counting, kept_in, no_progress, not_told
from evaluators.vlm.ask import Replies, ask
from evaluators.vlm.options import ModelOptions, model_name
from rf_repro.core.errors import UserError

NAME = "dpg"  # of the files in `out`


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Who answers, about which images, and which of the two scores is wanted.

    Args:
        model: as of `ModelOptions`; `mplug`, or `mplug:FOLDER`, is the model behind published numbers. The result of any other is
            labelled DPG(name).
        name: of the judge in that label.
        csv: questions of one's own in the columns of dpg_bench.csv (default: what `rf-repro data fetch dpg` got).
        pic_num: images of a prompt: 4, as a grid of 2x2 or as samples, or 1.
        resolution: side of one image, in a grid of one cell, pixels (default: that of the first).
        compat: official: as ELLA's script computes it, with its faults, on whatever is in the folder; fixed: every prompt, every
            image, or an error; both, from the same answers.
        digests: (prompt id, sample) -> SHA-256 that each image must have; None: any will do.
        grids: folder to write each prompt's four images to, as a 2x2 grid for the official script; None: do not.
    """

    csv: Path | str | None = None
    pic_num: Literal[1, 4] = 4
    resolution: int | None = None
    compat: Compat = "both"
    digests: Mapping[tuple[int, int], str] | None = None
    grids: Path | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "resolution")

    def judge(self) -> Judge:
        """Raises UserError when the model cannot be loaded."""
        if not isinstance(self.model, str):
            model = self.load()
            return Judge(self.name or model.revision, model)
        kind, _, weights = self.model.partition(":")
        if kind == mplug.SPEC:
            device = device_of(self.device)
            place = f"{device.type}:{device.index or 0}" if device.type == "cuda" else "cpu"
            return Judge("mPLUG", mplug.load(weights or mplug.WEIGHTS, place), is_mplug=True)
        return Judge(self.name or Path(model_name(self.model)).name, self.load())


def evaluate(images: Path | str, options: Options, *, progress: Progress = no_progress, tell: Tell = not_told) -> DPGEvaluation:
    """Scores a folder of ITEM.png, grids of 2x2 images or single ones, or of what `rf-repro sample --prompts dpg` made.

    With `options.out` it keeps the replies there, and writes `dpg.items.jsonl` (a file a line), `dpg.json` (the result), and
    `dpg-problems.txt` where something is amiss with the images.

    Args:
        progress: called with what is being done, how much of it is done, and how much there is.
        tell: called with lines on what is amiss.

    Returns:
        The result. Where files have no score, `unscored` says why, and the same call asks again what failed.

    Raises:
        UserError: the folder is not complete and `compat` is not official, or the model cannot be loaded or asked.
    """
    with kept_in(options.out) as out:
        found, benchmark, judge, replies = _ask(Path(images), options, out, ALL, progress, tell)
    result = score_replies(found, benchmark, judge, replies, options.compat)
    return result if options.out is None else result.write(out, NAME)


def evaluate_share(
    images: Path | str, options: Options, share: Share, *, progress: Progress = no_progress, tell: Tell = not_told
) -> int:
    """Asks one of several shares of the questions; `evaluate` scores when all have been asked.

    Args:
        share: (index, count).

    Returns:
        How many questions failed; they are asked again when it is scored.

    Raises:
        UserError: as `evaluate`, or `out` is not given.
    """
    return len(_ask(Path(images), options, options.require_out(), share, progress, tell)[-1].failures)


def require_complete(found: Scan, compat: Compat) -> None:
    """Raises UserError unless each item has exactly one whole file of the right size; the official script takes what it finds."""
    if compat != "official" and found.blocking:
        count = len(found.blocking)
        raise UserError(
            f"{found.root}: {count} problem{'' if count == 1 else 's'}, first {found.blocking[0]}; "
            "complete the folder, or give compat='official', which scores what it finds"
        )


def _ask(
    images: Path, options: Options, out: Path, share: Share, progress: Progress, tell: Tell
) -> tuple[Scan, Benchmark, Judge, Replies]:
    benchmark = load(Path(options.csv) if options.csv else None)
    found = scan(
        images, benchmark.items, pic_num=options.pic_num, resolution=options.resolution,
        progress=counting(progress, "read images"),
    )  # fmt: skip
    report_problems(found.problems, out / f"{NAME}-problems.txt" if options.out else None, tell)
    require_complete(found, options.compat)
    found.require_same(options.digests)
    if options.grids is not None:
        write_grids(found, Path(options.grids), counting(progress, "grids"))
    judge = options.judge()
    return found, benchmark, judge, ask_judge(
        found, benchmark, judge, out / f"{NAME}.replies.jsonl",
        batch_size=1 if judge.is_mplug else options.questions_at_once, share=share, progress=progress,
    )  # fmt: skip


def ask_judge(
    found: Scan, benchmark: Benchmark, judge: Judge, store: Path, *, batch_size: int = 1, share: Share = ALL,
    progress: Progress = no_progress,
) -> Replies:  # fmt: skip
    """What the judge replies to all questions of the share; see `evaluators.vlm.ask.ask`."""
    items = benchmark.items
    asked = ((crop, question.text) for file in found.files for crop in file.crops for question in items[file.item_id])
    return ask(
        judge.queries(asked), judge.model, store, protocol=judge.protocol, max_new_tokens=judge.max_new_tokens,
        batch_size=batch_size, shard=share, progress=counting(progress, "ask"),
    )  # fmt: skip
