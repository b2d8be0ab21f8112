"""What packs hold, in words and as a sheet of images, for a look before training."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packer import Pack
from rf_repro.data.packing import SampleGroup, to_pixels
from rf_repro.data.prepare import sample_tokens
from rf_repro.data.text_tokenizer import ImageTextTokenizer

KINDS = ("generation", "understanding", "text")  # here text is what has no image
CELL, LINES, LINE_HEIGHT, COLUMNS = 192, 4, 12, 6  # of the sheet: pixels, lines of text under an image, their height, cells a row
LINE_CHARS = CELL // 6  # of Pillow's built-in font
MAX_CELLS = 60
SPECIAL = re.compile(r"<\|\w+\|>")


@dataclass(frozen=True)
class Shown:
    """One sample of a pack: kind, key, (H, W) or (0, 0), its text with special tokens spelt, tokens, its place."""

    kind: str
    key: str
    size: tuple[int, int]
    text: str
    tokens: int
    group: SampleGroup
    row: int


def samples_of(pack: Pack, config: ExperimentConfig, tokenizer: ImageTextTokenizer) -> list[Shown]:
    """The samples of a pack, in its order."""
    keys = iter(pack.keys)
    found = []
    groups = [("generation", group) for group in pack.batch.generation]
    groups += [("understanding" if group.images is not None else "text", group) for group in pack.batch.understanding]
    for kind, group in groups:
        size = (0, 0) if group.images is None else (group.images.shape[2], group.images.shape[3])
        for row, ids in enumerate(group.text_ids.tolist()):
            tokens = sample_tokens(config, kind, *size, len(ids))
            found.append(Shown(kind, next(keys), size, tokenizer.decode(ids, with_special=True), tokens, group, row))
    return found


def describe(number: int, pack: Pack, samples: Sequence[Shown]) -> list[str]:
    """Lines about one pack: samples and tokens by kind, how full it is, sizes of its images."""
    lines = [f"pack {number}: {len(samples)} samples, {pack.num_tokens:,} of {pack.budget:,} tokens "
             f"({pack.num_tokens / pack.budget:.1%})"]  # fmt: skip
    for kind in KINDS:
        chosen = [sample for sample in samples if sample.kind == kind]
        if chosen:
            sizes = Counter(sample.size for sample in chosen if sample.size[0]).most_common(6)
            listed = ", ".join(f"{width}x{height}" + (f" ({count})" if count > 1 else "") for (height, width), count in sizes)
            lines.append(f"  {kind:<14}{len(chosen):>5} samples{sum(sample.tokens for sample in chosen):>9,} tokens"
                         + (f"   most images (width x height): {listed}" if listed else ""))  # fmt: skip
    return lines


def describe_sources(sources: Mapping[str, dict[str, Any]], max_corrupt: float) -> list[str]:
    """Lines about what was met in each source (`Pack.sources`): samples read, left out with reasons, corrupt ones with names; and
    whether training would stop at them."""
    lines = []
    for name, source in sources.items():
        counts = source["counts"]
        reasons = "".join(f", {reason}: {count}" for reason, count in sorted(counts["dropped"].items()))
        lines.append(f"{name}: {source['shards']} shards, {counts['seen']} samples read, corrupt: {counts['corrupt']}{reasons}")
        lines += [f"  {line}" for line in counts["named"]]
        if counts["corrupt"] > max_corrupt * counts["seen"]:
            lines.append(f"  {name}: more than data.max_corrupt={max_corrupt:g} of it is corrupt; training would stop")
    return lines


def contact_sheet(samples: Sequence[Shown]) -> Image.Image | None:
    """The first images as they are given to the model (scaled down to a cell), each over its kind and text; None without any."""
    chosen = [sample for sample in samples if sample.group.images is not None][:MAX_CELLS]
    if not chosen:
        return None
    height = CELL + LINES * LINE_HEIGHT + 6
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(chosen)) * (CELL + 6), rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, sample in enumerate(chosen):
        assert sample.group.images is not None
        image = Image.fromarray(to_pixels(sample.group.images[sample.row : sample.row + 1])[0].numpy())
        image.thumbnail((CELL, CELL))
        x, y = index % COLUMNS * (CELL + 6), index // COLUMNS * height
        sheet.paste(image, (x, y))
        # The built-in font has Latin letters only; what it lacks is shown as it draws it.
        text = f"{sample.kind} {sample.size[1]}x{sample.size[0]}: " + " ".join(SPECIAL.sub(" ", sample.text).split())
        for line in range(LINES):
            draw.text((x, y + CELL + line * LINE_HEIGHT), text[line * LINE_CHARS : (line + 1) * LINE_CHARS], fill="black")
    return sheet
