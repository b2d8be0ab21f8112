"""Questions on small pictures, in eight types that mirror the groups of the paper's understanding benchmarks (Table 2).

Six types ask about scenes of coloured shapes, like the generator's; two about a rendered word and about a bar chart. Every
question has exactly one right answer in its image, and within a type the answer is drawn first, independently of the
question's words: who guesses without the image does no better than 1 / number of answers.

What training never shows: scenes with a pair of objects that `HeldOut` keeps back, a share of the words, and a share of the
charts (their rows of heights). The benchmark shows those wherever the wanted answer allows. Position questions name objects by
colour, never by shape, so that they don't tell of the spatial relations that the generator's benchmark holds out.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import permutations, product

import numpy as np

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.data.scenes.draws import choice, stream_keys, uniform
from rf_repro.data.scenes.glyphs import MAX_BARS, MAX_HEIGHT, WORDS, GlyphSizes, chart_windows, palette, stamp, word_windows
from rf_repro.data.scenes.grammar import article, plural
from rf_repro.data.scenes.held_out import HeldOut
from rf_repro.data.scenes.layout import Layouts
from rf_repro.data.scenes.render import render

VERSION = 1  # raise it when the same config gives other questions
QUESTION_TYPES = ("object", "count", "color", "position", "compare", "existence", "word", "chart")
NUMERALS = ("zero", "one", "two", "three", "four", "five")
PLACES = ("left", "above", "right", "below")  # in the order of grammar.RELATIONS

# Draw numbers of a question (layouts use those from 1000 on); radii, rotations and bar colours take one each.
_TYPE, _SUBJECT, _ANSWER, _COUNT, _BACKGROUND, _RADIUS, _ROTATION = 0, 1, 2, 3, 10, 30, 40
_COLOR, _TOP, _LEFT, _ORDER = 50, 51, 52, 60
_NOISE, _CHUNK_NUMBERS = 20_000_000, 1 << 20
_FIRST_TRY, _DRAWS_A_TRY = 10_000_000, 16
_TRIES = 300

Found = tuple[np.ndarray, ...]  # arrays with one row a question
# (rows, first draw number) -> what was drawn for these rows, bool: it has the wanted answer, bool: it is held out
Proposal = Callable[[np.ndarray, int], tuple[Found, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class QuestionBatch:
    """N questions with their images.

    Attributes:
        images: uint8 [N, S, S, 3].
        questions, answers: words separated by spaces, e.g. "what is the word ?" and "F O G".
        types: int64 [N], indices into QUESTION_TYPES.
        held_out: bool [N], whether the image shows a combination kept from training.
    """

    images: np.ndarray
    questions: list[str]
    answers: list[str]
    types: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class _Wording:
    """One type: the texts its subjects are asked in, and its answers."""

    questions: list[str]
    answers: list[str]


def wordings(config: ScenesConfig) -> list[_Wording]:
    """Of each type, in the order of QUESTION_TYPES."""
    shapes, colors = config.shapes, config.colors
    return [
        _Wording([f"what shape is the {color} object ?" for color in colors], list(shapes)),
        _Wording([f"how many {plural(shape)} are there ?" for shape in shapes], list(NUMERALS[: config.max_objects + 1])),
        _Wording([f"what color is the {shape} ?" for shape in shapes], list(colors)),
        _Wording([f"where is the {a} object from the {b} object ?" for a, b in permutations(colors, 2)], list(PLACES)),
        _Wording([f"are there more {plural(a)} than {plural(b)} ?" for a, b in permutations(shapes, 2)], ["no", "yes"]),
        _Wording([f"is there {article(f'{color} {shape}')} ?" for color, shape in product(colors, shapes)], ["no", "yes"]),
        _Wording(["what is the word ?"], [" ".join(word) for word in WORDS]),
        _Wording([f"how tall is the {color} bar ?" for color in colors], list(NUMERALS[1 : MAX_HEIGHT + 1])),
    ]


def question_vocabulary(config: ScenesConfig) -> list[str]:
    """Every word of questions and answers, without repetition, in a fixed order. Letters are upper case: "A" is no article."""
    texts = [text for wording in wordings(config) for text in [*wording.questions, *wording.answers]]
    return list(dict.fromkeys(word for text in texts for word in text.split()))


class SceneQuestions:
    """Training questions and the fixed benchmark of one world.

    Raises:
        UserError: the objects, a word or a chart don't fit into the image.
    """

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.layouts = Layouts(config)
        self.sizes = GlyphSizes.of(config)
        self._wordings = wordings(config)
        num_shapes, num_colors = len(config.shapes), len(config.colors)
        self._held_pairs = np.zeros((num_shapes, num_shapes, num_colors, num_colors), bool)
        for a, b, color_a, color_b in HeldOut(config).attributes:
            self._held_pairs[a, b, color_a, color_b] = self._held_pairs[b, a, color_b, color_a] = True
        self._held_words = _split("words", len(WORDS), config.held_out)
        self._held_charts = _split("charts", (MAX_HEIGHT + 1) ** MAX_BARS, config.held_out)
        self._compared = np.array(list(permutations(range(num_shapes), 2)))
        self._placed = np.array(list(permutations(range(num_colors), 2)))

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the questions depend on."""
        return content_hash({"world": "scenes-questions", "version": VERSION, "config": asdict(self.config)})

    def train(self, indices: np.ndarray) -> QuestionBatch:
        """Training questions, of types by their shares.

        Args:
            indices: int64 [N], >= 0. Question i is the same in whatever batch it is asked for.
        """
        keys = stream_keys(("questions", self.config.seed), np.asarray(indices, np.int64))
        shares = self.config.question_shares
        types = np.arange(len(shares)).repeat(shares)[choice(keys, _TYPE, sum(shares))]
        subjects, answers = np.zeros_like(types), np.zeros_like(types)
        for kind, wording in enumerate(self._wordings):
            rows, pool = np.flatnonzero(types == kind), self._answer_pool(kind, False)
            subjects[rows] = choice(keys[rows], _SUBJECT, len(wording.questions))
            answers[rows] = pool[choice(keys[rows], _ANSWER, len(pool))]
        return self._questions(keys, types, subjects, answers, False)

    def held_out(self, per_type: int) -> QuestionBatch:
        """The benchmark: `per_type` questions of each type, one image each, answers balanced for every question text.

        Raises:
            UserError: per_type < 1.
        """
        if per_type < 1:
            raise UserError(f"held-out questions per type: {per_type}; must be >= 1")
        types = np.arange(len(QUESTION_TYPES)).repeat(per_type)
        rank = np.arange(per_type)
        subjects, answers = np.zeros_like(types), np.zeros_like(types)
        for kind, wording in enumerate(self._wordings):
            pool, texts = self._answer_pool(kind, True), len(wording.questions)
            group = rank // len(pool)
            groups = int(group[-1]) + 1
            subjects[types == kind] = group * texts // groups if groups < texts else group % texts
            answers[types == kind] = pool[rank * len(pool) // per_type if per_type < len(pool) else rank % len(pool)]
        keys = stream_keys(("held-out questions", self.config.seed), np.arange(len(types)))
        return self._questions(keys, types, subjects, answers, True)

    def _answer_pool(self, kind: int, held_out: bool) -> np.ndarray:
        """Int64: indices of the answers that a type may have."""
        if QUESTION_TYPES[kind] == "word" and self._held_words.any():
            return np.flatnonzero(self._held_words == held_out)
        return np.arange(len(self._wordings[kind].answers))

    def _questions(
        self, keys: np.ndarray, types: np.ndarray, subjects: np.ndarray, answers: np.ndarray, held_out: bool
    ) -> QuestionBatch:
        """Images for given questions and answers; uint64 [N] keys, int64 [N] types, subjects and answers."""
        config, slots = self.config, np.arange(self.config.max_objects)
        shape = np.full((len(keys), len(slots)), -1, np.int64)
        color, relation = shape.copy(), np.full(len(keys), -1, np.int64)
        shown_held_out = np.zeros(len(keys), bool)
        kinds = {name: np.flatnonzero(types == kind) for kind, name in enumerate(QUESTION_TYPES)}
        for name in QUESTION_TYPES[:6]:
            rows = kinds[name]
            found = self._objects(name, keys[rows], subjects[rows], answers[rows], held_out)
            shape[rows], color[rows], shown_held_out[rows] = found
        relation[kinds["position"]] = answers[kinds["position"]]

        center = self.layouts.draw(keys, (shape >= 0).sum(1), relation)
        jitter = 2 * uniform(keys[:, None], _RADIUS + slots) - 1
        radius = (config.radius * (1 + config.radius_jitter * jitter)).astype(np.float32)
        rotation = (config.rotation * (2 * uniform(keys[:, None], _ROTATION + slots) - 1)).astype(np.float32)
        draws = uniform(keys[:, None], _BACKGROUND + np.arange(6))
        images = render(config, shape, color, center, radius, rotation if config.rotation > 0 else None, draws)

        rows = kinds["word"]
        self._write_words(images, rows, keys[rows], answers[rows])
        shown_held_out[rows] = self._held_words[answers[rows]]
        rows = kinds["chart"]
        shown_held_out[rows] = self._draw_charts(images, rows, keys[rows], subjects[rows], answers[rows] + 1, held_out)
        self._add_noise(images, keys, types)
        return QuestionBatch(
            images,
            [self._wordings[kind].questions[row] for kind, row in zip(types.tolist(), subjects.tolist(), strict=True)],
            [self._wordings[kind].answers[row] for kind, row in zip(types.tolist(), answers.tolist(), strict=True)],
            types,
            shown_held_out,
        )

    def _objects(self, name: str, keys: np.ndarray, subject: np.ndarray, answer: np.ndarray, held_out: bool) -> Found:
        """Objects of scenes in which the question of each row has that answer.

        Some slots are set so that the answer becomes likely and the wrong one tempting, the others are free; drawn anew until
        the answer is right and unique.

        Returns:
            int64 [N, M] shape and color, -1 where there is no object, and bool [N], whether a pair of them is held out.
        """
        config, slots = self.config, np.arange(self.config.max_objects)
        num_shapes, num_colors = len(config.shapes), len(config.colors)
        least, most = np.full(len(keys), 2 if held_out else 1), np.full(len(keys), config.max_objects)
        if name == "count":
            least = np.maximum(least, np.minimum(answer + held_out, config.max_objects))  # a held-out pair is of two shapes
        elif name == "compare":
            least[:] = min(3, config.max_objects)  # the larger number is at least 2 where both shapes are there
        elif name == "existence":
            least[:] = 2  # one has the shape and one the colour, also where the answer is no
        elif name == "position":
            least[:], most[:] = 2, 2
        present = slots < (least + choice(keys, _COUNT, most - least + 1))[:, None]

        def propose(rows: np.ndarray, first_draw: int) -> tuple[Found, np.ndarray, np.ndarray]:
            one_key, asked, wanted = keys[rows, None], subject[rows], answer[rows]
            shape = choice(one_key, first_draw + slots, num_shapes)
            color = choice(one_key, first_draw + len(slots) + slots, num_colors)
            there = present[rows]
            if name == "object":
                shape[:, 0], color[:, 0] = wanted, asked
                right = ((color == asked[:, None]) & there).sum(1) == 1
            elif name == "color":
                shape[:, 0], color[:, 0] = asked, wanted
                right = ((shape == asked[:, None]) & there).sum(1) == 1
            elif name == "count":
                shape = np.where(slots < wanted[:, None], asked[:, None], shape)
                right = ((shape == asked[:, None]) & there).sum(1) == wanted
            elif name == "position":  # object 1 stands so from object 0
                color[:, [1, 0]] = self._placed[asked]
                right = np.ones(len(rows), bool)
            elif name == "compare":
                more, less = self._compared[asked].T
                shape[:, 0] = np.where(wanted == 1, more, less)
                if config.max_objects >= 3:
                    shape[:, 1] = np.where(wanted == 1, less, more)
                counts = [((shape == which[:, None]) & there).sum(1) for which in (more, less)]
                right = (counts[0] > counts[1]) == (wanted == 1)
            else:
                asked_color, asked_shape = np.divmod(asked, num_shapes)
                shape[:, 0] = asked_shape
                color[np.arange(len(rows)), 1 - wanted] = asked_color  # answer no: of another object
                match = (shape == asked_shape[:, None]) & (color == asked_color[:, None]) & there
                right = match.any(1) == (wanted == 1)
            shape, color = np.where(there, shape, -1), np.where(there, color, -1)
            return (shape, color), right, self._holds_held_out(shape, color)

        blank = np.full((len(keys), len(slots)), -1, np.int64)
        return _draw_until(propose, (blank, blank.copy()), held_out and bool(self._held_pairs.any()))

    def _add_noise(self, images: np.ndarray, keys: np.ndarray, types: np.ndarray) -> None:
        """Mixes even noise of all colours into each image, by a share between none and its type's most, in place."""
        most = np.array(self.config.question_noise)[types]
        rows, numbers = np.flatnonzero(most), np.arange(3 * self.config.image_size**2)
        step = max(1, _CHUNK_NUMBERS // len(numbers))
        for begin in range(0, len(rows), step):
            some = rows[begin : begin + step]
            share = (most[some] * uniform(keys[some], _NOISE))[:, None]
            noise = 255 * uniform(keys[some, None], _NOISE + 1 + numbers)
            mixed = (1 - share) * images[some].reshape(len(some), -1) + share * noise
            images[some] = np.rint(mixed).reshape(len(some), *images.shape[1:])

    def _holds_held_out(self, shape: np.ndarray, color: np.ndarray) -> np.ndarray:
        """Bool [N]: whether two objects of int64 [N, M] shape and color make a held-out attribute combination."""
        pairs = self._held_pairs[shape[:, :, None], shape[:, None], color[:, :, None], color[:, None]]
        return (pairs & (shape >= 0)[:, :, None] & (shape >= 0)[:, None]).any((1, 2))

    def _write_words(self, images: np.ndarray, rows: np.ndarray, keys: np.ndarray, words: np.ndarray) -> None:
        windows = word_windows(words, choice(keys, _COLOR, len(self.config.colors)), self.sizes)
        top = choice(keys, _TOP, self.config.image_size - self.sizes.word_height + 1)
        left = choice(keys, _LEFT, self.config.image_size - self.sizes.word_width + 1)
        stamp(images, rows, windows, top, left, palette(self.config))

    def _draw_charts(
        self, images: np.ndarray, rows: np.ndarray, keys: np.ndarray, asked: np.ndarray, height: np.ndarray, held_out: bool
    ) -> np.ndarray:
        """Charts whose bar of colour `asked` has that height, int64 [N] both; returns bool [N], whether it is held out."""
        config, places = self.config, np.arange(MAX_BARS)
        num_colors = len(config.colors)
        most = min(MAX_BARS, num_colors)

        def propose(some: np.ndarray, first_draw: int) -> tuple[Found, np.ndarray, np.ndarray]:
            bars = 2 + choice(keys[some], first_draw, most - 1)
            place = choice(keys[some], first_draw + 1, bars)
            heights = 1 + choice(keys[some, None], first_draw + 2 + places, MAX_HEIGHT)
            heights[np.arange(len(some)), place] = height[some]
            heights[places >= bars[:, None]] = 0
            code = (heights * (MAX_HEIGHT + 1) ** places).sum(1)
            return (heights, place), np.ones(len(some), bool), self._held_charts[code]

        blank = np.zeros((len(keys), MAX_BARS), np.int64), np.zeros(len(keys), np.int64)
        heights, place, is_held_out = _draw_until(propose, blank, held_out and bool(self._held_charts.any()))

        # A random order of the colours, the asked one first and then swapped to its place.
        order = uniform(keys[:, None], _ORDER + np.arange(num_colors))
        row = np.arange(len(keys))
        order[row, asked] = -1
        colors = np.zeros((len(keys), MAX_BARS), np.int64)
        colors[:, :most] = order.argsort(1)[:, :most]
        colors[:, 0] = colors[row, place]
        colors[row, place] = asked

        top = choice(keys, _TOP, config.image_size - self.sizes.chart_height + 1)
        left = choice(keys, _LEFT, config.image_size - self.sizes.chart_width((heights > 0).sum(1)) + 1)
        stamp(images, rows, chart_windows(heights, colors, num_colors, self.sizes), top, left, palette(config))
        return is_held_out


def _split(name: str, count: int, share: float) -> np.ndarray:
    """Bool [count]: which of `count` combinations are held out, about that share. The same for every seed."""
    return uniform(stream_keys(("held-out", name), np.arange(count)), 0) < share


def _draw_until(propose: Proposal, found: Found, held_out: bool) -> Found:
    """Draws each row anew until it is right, and held out or not as asked for.

    A right row that is never held out is taken in the end, because some answers leave no held-out combination: as many
    circles as the image takes leave no second shape.

    Returns:
        `found`, filled, and bool [N], whether the row is held out.

    Raises:
        UserError: some row is never right, or always held out.
    """
    is_held_out = np.zeros(len(found[0]), bool)
    rows = np.arange(len(found[0]))
    for attempt in range(2 * _TRIES):
        drawn, right, held = propose(rows, _FIRST_TRY + attempt * _DRAWS_A_TRY)
        taken = right & ((held == held_out) | (held_out and attempt >= _TRIES))
        for array, values in zip(found, drawn, strict=True):
            array[rows[taken]] = values[taken]
        is_held_out[rows[taken]] = held[taken]
        rows = rows[~taken]
        if not len(rows):
            return *found, is_held_out
    raise UserError(
        f"data.scenes.held_out: {len(rows)} questions found no image that training may show in {2 * _TRIES} tries; lower it"
    )
