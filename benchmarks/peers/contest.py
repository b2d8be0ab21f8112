"""Contests: what is timed, and the rows that come of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from benchmarks.timing import alternate

OURS = "ours"


@dataclass(frozen=True)
class Size:
    """How large everything is. The full size is the default; `SMALLEST` is that of the tests.

    Attributes:
        width, layers, heads, head_dim, inner: of all decoders; as many key-value heads as heads, SwiGLU (or GEGLU) of that inner
            width, so that a token meets layers * (4 width^2 + 3 width inner) parameters in each.
        samples, text, representation, pixels: of a training step, tokens of a sample; both images are squares of tokens.
        codes: the vocabulary that is decoded.
        decoded, batches: tokens of a sample, and samples at once.
        steps: of denoising.
        features: N, K, D of the online vector quantisation.
        repeats: timed turns, after one that warms up.
        compile: whether ours is compiled too, which takes a minute.
    """

    width: int = 256
    layers: int = 6
    heads: int = 8
    head_dim: int = 32
    inner: int = 1024
    samples: int = 32
    text: int = 32
    representation: int = 16
    pixels: int = 64
    codes: int = 512
    decoded: int = 64
    batches: tuple[int, ...] = (1, 8)
    steps: int = 25
    features: tuple[int, int, int] = (4096, 8192, 768)
    repeats: int = 6
    compile: bool = True

    @property
    def tokens(self) -> int:
        """Of a sample of a training step."""
        return self.text + self.representation + self.pixels


SMALLEST = Size(width=32, layers=2, heads=2, head_dim=16, inner=64, samples=2, text=4, representation=4, pixels=4, codes=16,
                decoded=4, batches=(1,), steps=2, features=(64, 32, 16), repeats=1, compile=False)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One who takes part. Of several entries of one name, variants of one system, the fastest counts."""

    name: str
    task: Callable[[], object]
    variant: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the table. `value`: None where there is none, and `note` says why; `ratio`: over that of "ours"."""

    contest: str
    unit: str
    dtype: str
    system: str
    value: float | None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Contest:
    """What is compared: a title, and a unit of which one run of a task does `count` in seconds / `scale`."""

    title: str
    unit: str
    dtype: torch.dtype
    count: int
    scale: float

    def run(self, entries: Sequence[Entry], device: torch.device, repeats: int) -> list[Row]:
        """Rows of all entries, timed in turn; the first is ours."""
        seconds = alternate({f"{entry.name}|{entry.variant}": entry.task for entry in entries}, device, repeats)
        best: dict[str, tuple[float, str]] = {}
        for entry in entries:
            value = seconds[f"{entry.name}|{entry.variant}"] * self.scale / self.count
            best[entry.name] = min(best.get(entry.name, (value, entry.variant)), (value, entry.variant))
        ours = best[OURS][0]
        return [self._row(name, value, value / ours, variant) for name, (value, variant) in best.items()]

    def left_out(self, name: str, why: str) -> Row:
        return self._row(name, None, None, why)

    def _row(self, name: str, value: float | None, ratio: float | None, note: str) -> Row:
        return Row(self.title, self.unit, str(self.dtype).removeprefix("torch."), name, value, ratio, note)


def missing(package: str) -> str:
    """Why a peer is left out: empty where its package, as pip names it, is there."""
    return "" if find_spec(package.replace("-", "_")) else f"left out: no {package} here (benchmarks/requirements.txt)"


def show(rows: Sequence[Row]) -> str:
    """The table, a contest after the other."""
    lines, above = [], None
    for row in rows:
        if (row.contest, row.dtype) != above:
            above = (row.contest, row.dtype)
            lines += ["", f"{row.contest}, {row.dtype}", f"  {'':<40}{row.unit:>16}{'over ours':>12}"]
        numbers = f"{'-':>16}{'-':>12}" if row.value is None or row.ratio is None else f"{row.value:>16,.3f}{row.ratio:>11.2f}x"
        lines.append(f"  {row.system:<40}{numbers}  {row.note}".rstrip())
    return "\n".join(lines[1:])
