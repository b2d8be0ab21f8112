"""`rf-repro evaluate dpg`: DPG-Bench on a folder of images, answered by mPLUG or by any vision-language model."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.problems import SHOWN
from evaluators.vlm.options import model_name
from rf_repro.commands.options import Commands, add_command, at_least_one, progress_bars, say_recorded, share, writable_folder
from rf_repro.commands.vlm_options import add_vlm, check_vlm, load_vlm, vlm_batch_size
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.records import ITEM, EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.core.shown import say
from rf_repro.evaluations.recording import SampledRun

if TYPE_CHECKING:
    from evaluators.dpg import DPGEvaluation, Options
    from evaluators.dpg.scoring import Summary

RESULT, ITEMS = "dpg.json", "dpg.items.jsonl"


def add_dpg(benchmarks: Commands) -> None:
    parser = add_command(
        benchmarks, "dpg", "score images of DPG-Bench's 1,065 prompts by questions to a vision-language model",
        "rf-repro evaluate dpg images --model Qwen/Qwen3-VL-8B-Instruct --out results",
    )  # fmt: skip
    parser.add_argument(
        "folder", type=Path, metavar="IMAGES",
        help="ITEM.png and on, grids of 2x2 images; or what `rf-repro sample RUN --prompts dpg` made",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for the result, its items and the replies; an interrupted run resumes from it")  # fmt: skip
    who = parser.add_argument_group("who answers", "--model mplug, or mplug:FOLDER, is the model behind published DPG numbers "
                                    "(extra `mplug`); any other model's result is labelled DPG(judge)")  # fmt: skip
    add_vlm(who)
    which = parser.add_argument_group("which images")
    which.add_argument("--resolution", type=int, metavar="PIXELS",
                       help="side of one image, in a grid of one cell (default: that of the first)")  # fmt: skip
    which.add_argument("--pic-num", type=int, default=4, choices=(1, 4), help="images of a prompt (default: 4)")
    which.add_argument(
        "--csv", type=Path, metavar="FILE",
        help="questions of one's own in the columns of dpg_bench.csv (default: what `rf-repro data fetch dpg` got)",
    )  # fmt: skip
    which.add_argument("--shard", default="1/1", metavar="I/N", help="ask the I-th of N shares only (default: 1/1, all)")
    parser.add_argument(
        "--compat", default="both", choices=("official", "fixed", "both"),
        help="official: as ELLA's script computes it, with its faults, on whatever is in the folder; fixed: every prompt, every "
        "image, or an error (default: both, from the same answers)",
    )  # fmt: skip
    parser.add_argument(
        "--grids", type=Path, metavar="DIR",
        help="also write each prompt's four images as a 2x2 grid, for the official script (default: do not)",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR",
        help="--out of another judge on the same images, to say how the two differ (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--run", dest="run_dir", type=Path, metavar="RUN",
        help="also record the result in this run directory, which the images were sampled from, for `rf-repro report` "
        "(default: do not)",
    )  # fmt: skip
    parser.set_defaults(run=run_dpg)


def run_dpg(options: argparse.Namespace) -> int:
    from evaluators import dpg

    out = writable_folder(options.out, "--out")
    if options.resolution is not None:
        at_least_one(options.resolution, "--resolution")
    check_vlm(options)
    if options.run_dir and options.compat == "official":
        raise UserError("--compat official: a run's record needs every prompt; give --run with --compat both or fixed")
    shard, sampled = share(options.shard), SampledRun.open(options.run_dir, options.folder)
    others = _result_of(options.calibrate) if options.calibrate else None
    settings = _settings(options, sampled)
    with progress_bars() as progress:
        if shard == (0, 1):
            result = dpg.evaluate(options.folder, settings, progress=progress, tell=print)
        else:
            dpg.evaluate_share(options.folder, settings, shard, progress=progress, tell=print)
    if shard != (0, 1):
        say(f"share {options.shard} is in {out}; when all are, run this command without --shard to score")
        return 0
    _print(result)
    say(f"result and items: {out / RESULT}")
    if result.unscored and options.compat != "official":
        say(f"{len(result.unscored)} files have no score; the same command asks again what failed:")
        say(*(f"  {name}: {reason}" for name, reason in list(result.unscored.items())[:SHOWN]))
        return 1
    if others is not None:
        _print_calibration(result, *others)
    if sampled is not None:
        say_recorded(sampled.record_dpg(result, None if result.judge.is_mplug else result.judge.name))
    return 0


def _settings(options: argparse.Namespace, sampled: SampledRun | None) -> "Options":
    from evaluators.dpg import Options, mplug

    by_name = options.model.partition(":")[0] == mplug.SPEC
    return Options(
        model=options.model if by_name else lambda: load_vlm(options),
        name=judge_name(options.model),
        device=options.device,
        batch_size=1 if by_name else vlm_batch_size(options),
        out=options.out,
        csv=options.csv,
        pic_num=options.pic_num,
        resolution=options.resolution,
        compat=options.compat,
        digests=sampled.digests() if sampled else None,
        grids=writable_folder(options.grids, "--grids") if options.grids else None,
    )


def judge_name(spec: str) -> str:
    """What a label calls the model: `Qwen/Qwen3-VL-8B-Instruct` -> `Qwen3-VL-8B-Instruct`, of an endpoint its model's name, of a
    run its variant too."""
    path = Path(spec).resolve()
    return f"{path.parent.name}/{path.name}" if RunDir(path).record_path.exists() else Path(model_name(spec)).name


def _print(result: "DPGEvaluation") -> None:
    """Both ways side by side, in percent as DPG is published."""
    from reports.tables import Table, plain

    judge = result.judge
    ways = {name: own for name, own in (("fixed", result.fixed), ("official", result.official)) if own is not None}
    rows = [(judge.label, *(_percent(own.score, own.files, "files") for own in ways.values()))]
    for indent, level in (("  ", "level1"), ("    ", "level2")):
        names = sorted({name for own in ways.values() for name in getattr(own, level)})
        rows += [(indent + name, *(_category(own, level, name) for own in ways.values())) for name in names]
    say(*plain(Table("dpg", judge.label, "", ("", *ways), tuple(rows), ())).split("\n"))
    if result.dropped:
        first = next(iter(result.dropped.items()))
        say(f"official leaves out {len(result.dropped)} files, first {first[0]}: {first[1]}")
    if not judge.is_mplug:
        say(f"{judge.label} is not comparable with published DPG numbers, which are mPLUG's; see --calibrate")


def _percent(score: float | None, count: int, what: str = "") -> str:
    return "none" if score is None else f"{100 * score:.2f}  n={count:,}{' ' if what else ''}{what}"


def _category(summary: "Summary", level: str, name: str) -> str:
    score, count = getattr(summary, level).get(name, (None, 0))
    return _percent(score, count)


def _result_of(folder: Path) -> tuple[EvalResult, list[dict[str, Any]]]:
    result = EvalResult.from_dict(read_json(folder / RESULT), str(folder / RESULT))
    return result, read_jsonl(folder / ITEMS, ITEM)


def _print_calibration(result: "DPGEvaluation", other: EvalResult, other_rows: Sequence[Mapping[str, Any]]) -> None:
    from evaluators.dpg.calibrate import calibrate

    found = calibrate(other_rows, result.rows)
    names = other.benchmark, result.judge.label.lower()
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.2f}"
    say(f"{names[1]} against {names[0]}, on {found.files:,} files and {found.questions:,} answers:")
    say(f"  same answer {100 * found.agreement:.2f}%, Cohen's kappa {_number(found.kappa)}; "
          f"yes {100 * found.yes[1]:.2f}% against {100 * found.yes[0]:.2f}%")  # fmt: skip
    say(f"  score {100 * found.scores[1]:.2f} against {100 * found.scores[0]:.2f}: {100 * found.difference:+.2f}{width} "
          f"(95%), correlation over files {_number(found.correlation)}")  # fmt: skip


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
