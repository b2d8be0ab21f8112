"""`rf-repro data inspect`: what packs of a stage would hold, before anything is trained."""

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rf_repro.commands.options import (
    Commands,
    add_command,
    add_data,
    add_set,
    at_least_one,
    data_overrides,
    numbers,
    overrides,
    writable_folder,
)
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say
from rf_repro.worlds import world_of

TASKS = ("generation", "understanding", "text")
FORMATS = {".tar": "webdataset", ".parquet": "parquet", ".arrow": "parquet", ".jsonl": "jsonl"}
TEXT_CHARS = 200  # shown of a sample's text


def add_inspect(actions: Commands) -> None:
    parser = add_command(actions, "inspect", "show what the packs of a stage would hold: samples, tokens, sizes, drops, texts",
                         "rf-repro data inspect shards/*.tar --task generation --out inspected")  # fmt: skip
    parser.add_argument("shards", nargs="*", metavar="SHARDS", help="files, folders or patterns, of one task (or --data)")
    parser.add_argument("--task", choices=TASKS, default="generation", help="of SHARDS (default: generation)")
    add_data(parser)
    parser.add_argument("--scale", default="paper", metavar="NAME", help="whose data are real images (default: paper)")
    parser.add_argument("--stage", default="joint", metavar="NAME", help="stage of the scale (default: joint)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="training seed (default: 0)")
    parser.add_argument("--packs", type=int, default=4, metavar="N", help="packs shown (default: 4)")
    parser.add_argument("--texts", type=int, default=3, metavar="N", help="samples whose text is shown, a kind (default: 3)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for contact_sheet.png (default: none is made)")
    add_set(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    at_least_one(options.packs, "--packs")
    [seed] = numbers(str(options.seed), "--seed")
    config = _config(options)
    if options.out is not None:
        writable_folder(options.out, "--out")
    from rf_repro.core.files import atomic_path
    from rf_repro.data.image_text import ImageTextData
    from rf_repro.data.inspection import KINDS, contact_sheet, describe, describe_sources, samples_of
    from rf_repro.data.streams import shares
    from rf_repro.data.text_tokenizer import ImageTextTokenizer

    stage = config.stage(options.stage)
    parts = shares(config, stage)
    tokenizer = ImageTextTokenizer.from_config(config)
    # One stream of all shards, in this process, that corrupt samples do not stop: they are what one wants to see.
    whole = replace(config, data=replace(config.data, workers=0, max_corrupt=1.0))
    data = ImageTextData(whole, replace(stage, packs_per_step=1), seed, tokenizer, range(1))
    smallest = stage.min_image_size or stage.max_image_size
    say(f"{config.scale}, stage {stage.name}: packs of {stage.tokens_per_rank:,} tokens, longer sides {smallest} to "
          f"{stage.max_image_size} px, {stage.packs_per_step} packs a step")  # fmt: skip
    say("; ".join(f"{part}: {stage.part_tokens(part):,} tokens of a pack" for part in parts))
    used = {name: f"{one:.1%} of the samples of {part}" for part, found in parts.items() for name, one in found.items()}
    for source in config.data.sources:
        say(f"{source.name}: {source.task}, {source.format}, {used.get(source.name, 'not used in this stage')}; {source.path}")
    shown, met = [], {}
    for number, [pack] in enumerate(islice(data.steps(), options.packs), start=1):
        samples = samples_of(pack, config, tokenizer)
        say(*describe(number, pack, samples))
        shown += samples
        met = pack.sources
    say(*describe_sources(met, config.data.max_corrupt))
    for kind in KINDS:
        for sample in [sample for sample in shown if sample.kind == kind][: max(options.texts, 0)]:
            text = sample.text if len(sample.text) <= TEXT_CHARS else sample.text[:TEXT_CHARS] + "..."
            say(f"{kind} {sample.key}: {ascii(text) if not text.isprintable() else text}")
    if options.out is not None:
        sheet = contact_sheet(shown)
        if sheet is None:
            raise UserError("--out: there is no image to show; leave --out away")
        with atomic_path(options.out / "contact_sheet.png") as temporary:
            sheet.save(temporary, format="PNG")
        say(options.out / "contact_sheet.png")
    return 0


def _config(options: argparse.Namespace) -> ExperimentConfig:
    """The scale with the sources that are to be looked at."""
    base = get_scale(options.scale)
    if not world_of(base).reads_shards:
        raise UserError(f"--scale {options.scale}: its data is {base.data.world}, drawn and not stored; choose paper")
    changed = overrides(options.set)
    if options.shards and options.data:
        raise UserError("SHARDS and --data: both say what to look at; give one of them")
    if options.data:
        changed |= data_overrides(options)
    elif options.shards:
        changed |= _sources(options.shards, options.task)
    config = apply_overrides(base, changed)
    stage = config.stage(options.stage)
    if options.shards:  # one task alone
        wanted = {task: int(task == options.task) for task in TASKS}
        mixture = {f"stages.{stage.name}.mixture.{task}": count for task, count in wanted.items()}
        config = apply_overrides(config, {path: count for path, count in mixture.items()
                                          if count != getattr(stage.mixture, path.rsplit(".", 1)[1])})  # fmt: skip
    if not config.data.sources:
        raise UserError("SHARDS or --data: name what to look at, for example rf-repro data inspect shards/*.tar")
    return config


def _sources(shards: list[str], task: str) -> dict[str, Any]:
    """A source of each file, folder or pattern."""
    found = [
        {"name": f"shards{number}", "path": path, "format": _format(Path(path)), "task": task}
        for number, path in enumerate(shards)
    ]
    return {"data.sources": found}


def _format(path: Path) -> str:
    """Told from the file's ending, or those in a folder. Raises UserError where it is none of ours."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    kinds = [FORMATS[file.suffix] for file in files if file.suffix in FORMATS]
    if not kinds:
        raise UserError(f"{path}: no shards; they end in {', '.join(FORMATS)}")
    return kinds[0]
