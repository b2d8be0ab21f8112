"""Short words in a pixel font and bar charts, drawn over the scenes world's images.

A window is a small int8 picture of palette indices, -1 where the image shows through. N images, S pixels a side.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.render import RGB

# 3 x 5 cells, row by row. Consonants differ from each other in at least 4 cells, vowels (which stand between) too.
GLYPHS = {
    "D": "110 101 101 101 110",
    "F": "111 100 110 100 100",
    "G": "011 100 101 101 011",
    "J": "001 001 001 101 010",
    "L": "100 100 100 100 111",
    "M": "101 111 111 101 101",
    "R": "110 101 110 101 101",
    "S": "111 100 111 001 111",
    "T": "111 010 010 010 010",
    "Z": "111 001 010 100 111",
    "A": "010 101 111 101 101",
    "E": "111 100 110 100 111",
    "I": "010 010 010 010 010",
    "O": "010 101 101 101 010",
    "U": "101 101 101 101 111",
}
CONSONANTS, VOWELS = "DFGJLMRSTZ", "AEIOU"
WORDS = ["".join(letters) for letters in product(CONSONANTS, VOWELS, CONSONANTS)]
_CELLS = 11  # of a word's width: three letters of 3 and two gaps

MAX_BARS, MAX_HEIGHT = 4, 5
_LINE_GREY = 0.55  # of a chart's base line: brighter than every background


@dataclass(frozen=True)
class GlyphSizes:
    """Pixels; they follow the size of the world's objects as far as the image allows (assumed).

    `cell` is one cell of the font: letters are about as tall as an object. `unit` is one step of a bar's height and a bar's
    width, `gap` lies between bars, `line` is the height of the base line and how far it reaches beyond the bars.

    Raises:
        UserError: a word or a chart does not fit into the image.
    """

    cell: int
    unit: int

    @classmethod
    def of(cls, config: ScenesConfig) -> "GlyphSizes":
        size = config.image_size
        if size < _CELLS:
            raise UserError(f"data.scenes.image_size={size}: too small for words of {_CELLS} pixels; raise it to ask questions")
        cell = min(max(round(0.45 * config.radius), 1), size // _CELLS)
        sizes = cls(cell, min(max(round(0.67 * config.radius), 1), size // 7))
        while sizes.unit > 1 and max(sizes.chart_height, sizes.chart_width(MAX_BARS)) > size:
            sizes = cls(cell, sizes.unit - 1)
        return sizes

    @property
    def gap(self) -> int:
        return max(round(0.67 * self.unit), 1)

    @property
    def line(self) -> int:
        return max(self.unit // 3, 1)

    @property
    def word_height(self) -> int:
        return 5 * self.cell

    @property
    def word_width(self) -> int:
        return _CELLS * self.cell

    @property
    def chart_height(self) -> int:
        return MAX_HEIGHT * self.unit + self.line

    def chart_width(self, bars: np.ndarray | int) -> np.ndarray | int:
        """Of a chart with so many bars, base line included."""
        return bars * (self.unit + self.gap) - self.gap + 2 * self.line


def palette(config: ScenesConfig) -> np.ndarray:
    """uint8 [colours + 1, 3]: the world's colours, and last the grey of a chart's base line."""
    rows = [*(RGB[name] for name in config.colors), (_LINE_GREY,) * 3]
    return np.rint(np.array(rows, np.float32) * 255).astype(np.uint8)


def word_windows(words: np.ndarray, colors: np.ndarray, sizes: GlyphSizes) -> np.ndarray:
    """Int8 [N, word_height, word_width] of words int64 [N] (indices into WORDS) in colours int64 [N]."""
    cells = np.zeros((len(WORDS), 5, _CELLS), bool)
    for index, word in enumerate(WORDS):
        for place, letter in enumerate(word):
            cells[index, :, 4 * place : 4 * place + 3] = _bitmap(letter)
    shown = cells[words].repeat(sizes.cell, 1).repeat(sizes.cell, 2)
    return np.where(shown, colors[:, None, None], -1).astype(np.int8)


def chart_windows(heights: np.ndarray, colors: np.ndarray, line_color: int, sizes: GlyphSizes) -> np.ndarray:
    """Int8 [N, chart_height, chart_width(MAX_BARS)] of bars of heights int64 [N, MAX_BARS] (0: no bar, only at the end).

    Args:
        colors: int64 [N, MAX_BARS], palette indices.
        line_color: palette index of the base line.
    """
    height, width = sizes.chart_height, int(sizes.chart_width(MAX_BARS))
    windows = np.full((len(heights), height, width), -1, np.int8)
    y, x = np.arange(height)[:, None], np.arange(width)
    foot = height - sizes.line
    bars = (heights > 0).sum(1)
    on_line = (y >= foot) & (x < np.asarray(sizes.chart_width(bars))[:, None, None])
    windows[on_line] = line_color
    for bar in range(MAX_BARS):
        left = sizes.line + bar * (sizes.unit + sizes.gap)
        inside = (x >= left) & (x < left + sizes.unit) & (y < foot)
        filled = inside & (y >= foot - sizes.unit * heights[:, bar, None, None])
        windows = np.where(filled, colors[:, bar, None, None], windows).astype(np.int8)
    return windows


def stamp(images: np.ndarray, rows: np.ndarray, windows: np.ndarray, top: np.ndarray, left: np.ndarray, rgb: np.ndarray) -> None:
    """Paints windows int8 [N, h, w] into `images[rows]` in place, corners at int64 [N] top and left; rgb is `palette`'s."""
    item, y, x = np.nonzero(windows >= 0)
    images[rows[item], top[item] + y, left[item] + x] = rgb[windows[item, y, x]]


def _bitmap(letter: str) -> np.ndarray:
    """Bool [5, 3]."""
    return np.array([[cell == "1" for cell in row] for row in GLYPHS[letter].split()])
