"""`rf-repro evaluate dpg`: DPG-Bench on a folder of images, answered by mPLUG or by any vision-language model."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.commands.options import (
    SHOWN_PROBLEMS,
    Commands,
    add_command,
    at_least_one,
    progress_bar,
    share,
    tell_problems,
    writable_folder,
)
from rf_repro.commands.sampled_run import SampledRun
from rf_repro.commands.vlm_options import ENDPOINT, add_vlm, check_vlm, load_vlm, vlm_batch_size
from rf_repro.core.dpg_names import dpg_name
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl, write_json, write_jsonl
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir

if TYPE_CHECKING:
    from evaluators.dpg.evaluate import Outcome
    from evaluators.dpg.judge import Judge
    from evaluators.dpg.scoring import Summary

RESULT, ITEMS, REPLIES, PROBLEMS = "dpg.json", "dpg.items.jsonl", "dpg.replies.jsonl", "dpg-problems.txt"


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
    from evaluators.dpg.data import load
    from evaluators.dpg.evaluate import evaluate, require_complete
    from evaluators.dpg.folder import scan, write_grids

    out = writable_folder(options.out, "--out")
    if options.resolution is not None:
        at_least_one(options.resolution, "--resolution")
    check_vlm(options)
    if options.run_dir and options.compat == "official":
        raise UserError("--compat official: a run's record needs every prompt; give --run with --compat both or fixed")
    shard = share(options.shard)
    sampled = SampledRun.open(options.run_dir, options.folder) if options.run_dir else None
    others = _result_of(options.calibrate) if options.calibrate else None
    benchmark = load(options.csv)
    with progress_bar("read images") as progress:
        found = scan(
            options.folder, benchmark.items, pic_num=options.pic_num, resolution=options.resolution, progress=progress
        )  # fmt: skip
    tell_problems(found.problems, out / PROBLEMS)
    require_complete(found, options.compat)
    if sampled is not None:
        sampled.require(found.digests)
    if options.grids is not None:
        with progress_bar("grids") as progress:
            write_grids(found, writable_folder(options.grids, "--grids"), progress)
    judge = load_judge(options)
    batch_size = 1 if judge.is_mplug else vlm_batch_size(options)
    with progress_bar("ask") as progress:
        outcome = evaluate(
            found, benchmark, judge, out / REPLIES, compat=options.compat, batch_size=batch_size, shard=shard, progress=progress
        )
    if outcome is None:
        print(f"share {options.shard} is in {out}; when all are, run this command without --shard to score")
        return 0
    write_jsonl(out / ITEMS, outcome.rows)
    write_json(out / RESULT, replace(outcome.result, items=ITEMS).to_dict())
    _print(outcome, judge)
    print(f"result and items: {out / RESULT}")
    if outcome.failures and options.compat != "official":
        print(f"{len(outcome.failures)} files have no score; the same command asks again what failed:")
        print("\n".join(f"  {name}: {reason}" for name, reason in list(outcome.failures.items())[:SHOWN_PROBLEMS]))
        return 1
    if others is not None:
        _print_calibration(judge, outcome.rows, *others)
    if sampled is not None:
        print(f"recorded in the run: {_record(sampled, outcome, judge)}")
    return 0


def load_judge(options: argparse.Namespace) -> "Judge":
    """The judge that `--model` names. Raises UserError when it cannot be loaded."""
    from evaluators.dpg import mplug
    from evaluators.dpg.judge import Judge

    spec: str = options.model
    kind, _, weights = spec.partition(":")
    if kind == mplug.SPEC:
        from rf_repro.compute.devices import resolve_device

        device = resolve_device(options.device)
        model = mplug.load(weights or mplug.WEIGHTS, f"{device.type}:{device.index or 0}" if device.type == "cuda" else "cpu")
        return Judge("mPLUG", model, is_mplug=True)
    return Judge(judge_name(spec), load_vlm(options))


def judge_name(spec: str) -> str:
    """What a label calls the model: `Qwen/Qwen3-VL-8B-Instruct` -> `Qwen3-VL-8B-Instruct`, of an endpoint its model's name, of a
    run its variant too."""
    if spec.startswith(ENDPOINT):
        spec = spec.removeprefix(ENDPOINT).rpartition("@")[0]
    path = Path(spec).resolve() if Path(spec).exists() else Path(spec)
    return f"{path.parent.name}/{path.name}" if RunDir(path).record_path.exists() else path.name


def _print(outcome: "Outcome", judge: "Judge") -> None:
    """Both ways side by side, in percent as DPG is published."""
    from reports.tables import Table, plain

    ways = {name: own for name, own in (("fixed", outcome.fixed), ("official", outcome.official)) if own is not None}
    rows = [(judge.label, *(_percent(own.score, own.files, "files") for own in ways.values()))]
    for indent, level in (("  ", "level1"), ("    ", "level2")):
        names = sorted({name for own in ways.values() for name in getattr(own, level)})
        rows += [(indent + name, *(_category(own, level, name) for own in ways.values())) for name in names]
    print(plain(Table("dpg", judge.label, "", ("", *ways), tuple(rows), ())))
    if outcome.dropped:
        first = next(iter(outcome.dropped.items()))
        print(f"official leaves out {len(outcome.dropped)} files, first {first[0]}: {first[1]}")
    if not judge.is_mplug:
        print(f"{judge.label} is not comparable with published DPG numbers, which are mPLUG's; see --calibrate")


def _percent(score: float | None, count: int, what: str = "") -> str:
    return "none" if score is None else f"{100 * score:.2f}  n={count:,}{' ' if what else ''}{what}"


def _category(summary: "Summary", level: str, name: str) -> str:
    score, count = getattr(summary, level).get(name, (None, 0))
    return _percent(score, count)


def _result_of(folder: Path) -> tuple[EvalResult, list[dict[str, Any]]]:
    result = EvalResult.from_dict(read_json(folder / RESULT), str(folder / RESULT))
    return result, read_jsonl(folder / ITEMS)


def _print_calibration(
    judge: "Judge", rows: Sequence[Mapping[str, Any]], other: EvalResult, other_rows: Sequence[Mapping[str, Any]]
) -> None:
    from evaluators.dpg.calibrate import calibrate

    found = calibrate(other_rows, rows)
    names = other.benchmark, judge.label.lower()
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.2f}"
    print(f"{names[1]} against {names[0]}, on {found.files:,} files and {found.questions:,} answers:")
    print(f"  same answer {100 * found.agreement:.2f}%, Cohen's kappa {_number(found.kappa)}; "
          f"yes {100 * found.yes[1]:.2f}% against {100 * found.yes[0]:.2f}%")  # fmt: skip
    print(f"  score {100 * found.scores[1]:.2f} against {100 * found.scores[0]:.2f}: {100 * found.difference:+.2f}{width} "
          f"(95%), correlation over files {_number(found.correlation)}")  # fmt: skip


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _record(sampled: SampledRun, outcome: "Outcome", judge: "Judge") -> Path:
    """Writes the result and its items into the run; returns the record's path."""
    run, origin = sampled.run, sampled.origin
    name = dpg_name(origin.height, origin.width, None if judge.is_mplug else judge.name)
    write_jsonl(run.evals / f"{name}.items.jsonl", outcome.rows)
    run.write_eval(
        name, replace(outcome.result, step=origin.step, weights=origin.weights, items=f"{name}.items.jsonl")
    )  # fmt: skip
    return run.evals / f"{name}.json"
