"""Every question has the one right answer that the image shows: read off the pixels again, not off what was drawn."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from evaluators.geneval.relations import relations
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.glyphs import CONSONANTS, GLYPHS, VOWELS, GlyphSizes
from rf_repro.data.scenes.grammar import Prompt
from rf_repro.data.scenes.held_out import HeldOut
from rf_repro.data.scenes.questions import QUESTION_TYPES, QuestionBatch, SceneQuestions
from rf_repro.data.scenes.render import RGB
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.worlds.scenes.colors import SceneColorClassifier
from rf_repro.worlds.scenes.detector import SceneDetector

TINY = ScenesConfig()
HARD = ScenesConfig(
    image_size=64, shapes=("circle", "square", "triangle", "cross", "star", "ring"), radius=8.0, radius_jitter=0.2,
    rotation=0.5, min_distance=24.0, max_objects=4, background="textured",
    colors=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white"),
)  # fmt: skip
POOR = ScenesConfig(shapes=("square", "cross"), colors=("red", "green"), max_objects=2)
CONFIGS = {"tiny": TINY, "hard": HARD, "poor": POOR, "nothing held out": replace(TINY, held_out=0.0)}
NUMERALS = ["zero", "one", "two", "three", "four", "five"]
WORD, CHART = QUESTION_TYPES.index("word"), QUESTION_TYPES.index("chart")


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def batches(request: pytest.FixtureRequest) -> tuple[ScenesConfig, QuestionBatch, QuestionBatch]:
    questions = SceneQuestions(request.param)
    return request.param, questions.train(np.arange(1200)), questions.held_out(60)


def read_scenes(config: ScenesConfig, images: np.ndarray) -> list[list[tuple[str, str, np.ndarray]]]:
    """(colour, shape, box) of every object, by the detector and the colour classifier."""
    classifier = SceneColorClassifier(config)
    scenes = []
    for image, found in zip(images, SceneDetector(config).detect_arrays(images), strict=True):
        objects = []
        for shape, detections in found.items():
            assert detections.masks is not None
            for box, score, mask in zip(detections.boxes, detections.scores, detections.masks, strict=True):
                if score > 0.3:
                    crop = Image.fromarray(image[mask][None])
                    objects.append((classifier.classify([crop], [shape])[0], shape, box))
        scenes.append(objects)
    return scenes


def answer_from_scene(question: str, objects: list[tuple[str, str, np.ndarray]], singular: dict[str, str]) -> str:
    """Plain reading of the question; what it speaks of as "the" must be there once."""
    words = question.split()
    colors, shapes = [color for color, _, _ in objects], [shape for _, shape, _ in objects]
    match words:
        case ["what", "shape", "is", "the", color, "object", "?"]:
            assert colors.count(color) == 1
            return shapes[colors.index(color)]
        case ["what", "color", "is", "the", shape, "?"]:
            assert shapes.count(shape) == 1
            return colors[shapes.index(shape)]
        case ["how", "many", several, "are", "there", "?"]:
            return NUMERALS[shapes.count(singular[several])]
        case ["where", "is", "the", first, "object", "from", "the", second, "object", "?"]:
            assert colors.count(first) == colors.count(second) == 1
            (relation,) = relations(objects[colors.index(first)][2], objects[colors.index(second)][2], 0.1)
            return relation.removesuffix(" of")
        case ["are", "there", "more", several, "than", others, "?"]:
            return "yes" if shapes.count(singular[several]) > shapes.count(singular[others]) else "no"
        case ["is", "there", "a" | "an", color, shape, "?"]:
            return "yes" if (color, shape) in zip(colors, shapes, strict=True) else "no"
    raise AssertionError(question)


def test_answers_are_right_in_the_scenes(batches: tuple[ScenesConfig, QuestionBatch, QuestionBatch]) -> None:
    config, *both = batches
    singular = {shape + ("es" if shape == "cross" else "s"): shape for shape in config.shapes}
    for batch in both:
        rows = np.flatnonzero(batch.types < WORD)
        for row, objects in zip(rows, read_scenes(config, batch.images[rows]), strict=True):
            assert answer_from_scene(batch.questions[row], objects, singular) == batch.answers[row], batch.questions[row]


def foreground(config: ScenesConfig, image: np.ndarray, color: str) -> np.ndarray:
    return (np.abs(image.astype(int) - np.rint(np.array(RGB[color]) * 255)) <= 1).all(-1)


def read_word(config: ScenesConfig, image: np.ndarray) -> str:
    """The only word whose letters match the ink exactly, in cells of the size that the ink's box has."""
    (ink,) = [seen for color in config.colors if (seen := foreground(config, image, color)).any()]
    y = np.flatnonzero(ink.any(1))
    cell, top = (y[-1] + 1 - y[0]) // 5, y[0]
    assert y[-1] + 1 - y[0] == 5 * cell
    matches = []
    for left in range(config.image_size - 11 * cell + 1):
        cells = ink[top : top + 5 * cell : cell, left : left + 11 * cell : cell]
        exact = np.zeros_like(ink)
        exact[top : top + 5 * cell, left : left + 11 * cell] = cells.repeat(cell, 0).repeat(cell, 1)
        if cells[:, [3, 7]].any() or (exact != ink).any():
            continue
        letters = [" ".join("".join("01"[int(on)] for on in row) for row in cells[:, at : at + 3]) for at in (0, 4, 8)]
        matches.append([[name for name in GLYPHS if GLYPHS[name] == bitmap] for bitmap in letters])
    ((first, middle, last),) = [match for match in matches if all(len(names) == 1 for names in match)]
    return " ".join((*first, *middle, *last))


def test_words_can_be_read_again(batches: tuple[ScenesConfig, QuestionBatch, QuestionBatch]) -> None:
    config, *both = batches
    for batch in both:
        for row in np.flatnonzero(batch.types == WORD):
            assert batch.questions[row] == "what is the word ?"
            assert read_word(config, batch.images[row]) == batch.answers[row]


def test_charts_can_be_read_again(batches: tuple[ScenesConfig, QuestionBatch, QuestionBatch]) -> None:
    """2 to 4 bars of different colours stand on one line, one width each, a whole number of widths high."""
    config, *both = batches
    for batch in both:
        for row in np.flatnonzero(batch.types == CHART):
            bars = {}
            for color in config.colors:
                y, x = np.nonzero(foreground(config, batch.images[row], color))
                if len(y):
                    width, height = np.ptp(x) + 1, np.ptp(y) + 1
                    assert (len(y), height % width) == (width * height, 0)
                    bars[color] = (width, height // width, y.max())
            assert 2 <= len(bars) <= 4
            assert len({width for width, _, _ in bars.values()}) == len({foot for _, _, foot in bars.values()}) == 1
            asked = batch.questions[row].split()[4]
            assert batch.questions[row] == f"how tall is the {asked} bar ?"
            assert NUMERALS[bars[asked][1]] == batch.answers[row]


def test_a_question_does_not_depend_on_its_batch() -> None:
    for config in (TINY, HARD):
        together = SceneQuestions(config).train(np.arange(300))
        order = np.random.default_rng(0).permutation(300)[:50]
        for rows in (order, np.array([7])):
            batch = SceneQuestions(config).train(rows)
            for name in ("images", "types", "held_out"):
                np.testing.assert_array_equal(getattr(together, name)[rows], getattr(batch, name))
            assert [together.questions[row] for row in rows] == batch.questions
            assert [together.answers[row] for row in rows] == batch.answers


def test_another_seed_gives_other_questions_and_another_fingerprint() -> None:
    first, second = SceneQuestions(TINY), SceneQuestions(replace(TINY, seed=1))
    assert first.fingerprint == SceneQuestions(TINY).fingerprint != second.fingerprint
    assert first.train(np.arange(50)).questions != second.train(np.arange(50)).questions
    assert (first.held_out(4).images != second.held_out(4).images).any()


def test_training_is_balanced() -> None:
    """Types, answers within a type, and answers for each question's words: within 5 standard deviations of even."""
    batch = SceneQuestions(TINY).train(np.arange(24_000))
    options = {"object": 4, "count": 4, "color": 6, "position": 4, "compare": 2, "existence": 2, "chart": 5}

    def even(counts: Counter[str], number: int) -> bool:
        share = counts.total() / number
        return len(counts) == number and max(abs(count - share) for count in counts.values()) < 5 * share**0.5

    assert even(Counter(QUESTION_TYPES[kind] for kind in batch.types), 8)
    for name, number in options.items():
        rows = np.flatnonzero(batch.types == QUESTION_TYPES.index(name))
        by_text = defaultdict(Counter)
        for row in rows:
            by_text[batch.questions[row]][batch.answers[row]] += 1
        assert even(sum(by_text.values(), Counter()), number)
        assert all(even(counts, number) for counts in by_text.values())
    letters = [Counter(batch.answers[row].split()[place] for row in np.flatnonzero(batch.types == WORD)) for place in range(3)]
    assert [set(counts) for counts in letters] == [set(CONSONANTS), set(VOWELS), set(CONSONANTS)]
    assert all(min(counts.values()) > 0.5 * counts.total() / len(counts) for counts in letters)


@pytest.mark.parametrize("per_type", [1, 12, 60])
def test_the_benchmark_is_balanced_for_every_text(per_type: int) -> None:
    batch = SceneQuestions(TINY).held_out(per_type)
    assert batch.types.tolist() == [kind for kind in range(8) for _ in range(per_type)]
    for kind in range(8):
        by_text = defaultdict(Counter)
        for row in np.flatnonzero(batch.types == kind):
            by_text[batch.questions[row]][batch.answers[row]] += 1
        if kind == WORD:
            assert max(by_text["what is the word ?"].values()) == 1
        elif QUESTION_TYPES[kind] != "chart" or per_type == 60:  # 12 is no multiple of a chart's five answers
            assert {tuple(counts.values()) for counts in by_text.values()} <= {
                (n,) * len(c) for c in by_text.values() for n in c.values()
            }
    again = SceneQuestions(TINY).held_out(per_type)
    np.testing.assert_array_equal(batch.images, again.images)
    assert (batch.questions, batch.answers) == (again.questions, again.answers)


def test_a_benchmark_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="must be >= 1"):
        SceneQuestions(TINY).held_out(0)


def holds_held_out_pair(config: ScenesConfig, objects: list[tuple[str, str, np.ndarray]]) -> bool:
    held_out = HeldOut(config)
    found = [(config.shapes.index(shape), config.colors.index(color)) for color, shape, _ in objects]
    return any(
        a != b and paint_a != paint_b and Prompt("color_attr", (a, b), (paint_a, paint_b)) in held_out
        for (a, paint_a), (b, paint_b) in combinations(found, 2)
    )


@pytest.mark.parametrize(("config", "count"), [(TINY, 6000), (HARD, 1200)], ids=["tiny", "hard"])
def test_training_never_shows_what_the_benchmark_holds_out(config: ScenesConfig, count: int) -> None:
    questions = SceneQuestions(config)
    train, held_out = questions.train(np.arange(count)), questions.held_out(60)
    assert not train.held_out.any()
    for batch in (train, held_out):
        rows = np.flatnonzero(batch.types < WORD)
        for row, objects in zip(rows, read_scenes(config, batch.images[rows]), strict=True):
            assert holds_held_out_pair(config, objects) == batch.held_out[row]
    # a count of all the objects that fit leaves no second shape, so no pair
    most = (held_out.types == QUESTION_TYPES.index("count")) & (np.array(held_out.answers) == NUMERALS[config.max_objects])
    assert (held_out.held_out == ~most).all()

    def words(batch: QuestionBatch) -> set[str]:
        return {answer for answer, kind in zip(batch.answers, batch.types, strict=True) if kind == WORD}

    def charts(batch: QuestionBatch) -> set[tuple[int, ...]]:
        """Heights of the bars from left to right, in bar widths."""
        found = set()
        for image in batch.images[batch.types == CHART]:
            columns = {}
            for color in config.colors:
                y, x = np.nonzero(foreground(config, image, color))
                if len(y):
                    columns[int(x.min())] = (int(np.ptp(y)) + 1) // (int(np.ptp(x)) + 1)
            found.add(tuple(columns[left] for left in sorted(columns)))
        return found

    assert words(train).isdisjoint(words(held_out))
    assert charts(train).isdisjoint(charts(held_out))
    assert len(words(train)) > count / 20
    assert len(charts(train)) > count / 20


def test_questions_and_answers_fit_sixteen_tokens(batches: tuple[ScenesConfig, QuestionBatch, QuestionBatch]) -> None:
    config, *both = batches
    for batch in both:
        ids, mask = SceneTokenizer(config).encode_questions(batch.questions, batch.answers, 16)
        assert ids.shape == mask.shape == (len(batch.questions), 16)


def test_letters_are_told_apart_by_four_cells() -> None:
    for letters in (CONSONANTS, VOWELS):
        for a, b in combinations(letters, 2):
            assert sum(x != y for x, y in zip(GLYPHS[a], GLYPHS[b], strict=True)) >= 4, (a, b)


@pytest.mark.parametrize("size", range(11, 140, 7))
@pytest.mark.parametrize("share", [0.05, 0.19, 0.5, 2.0])
def test_words_and_charts_fit_every_size(size: int, share: float) -> None:
    sizes = GlyphSizes.of(ScenesConfig(image_size=size, radius=share * size))
    assert max(sizes.word_width, sizes.word_height, sizes.chart_height, sizes.chart_width(4)) <= size
    assert min(sizes.cell, sizes.unit, sizes.gap, sizes.line) >= 1


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(UserError, match="image_size=10: too small"):
        SceneQuestions(ScenesConfig(image_size=10, radius=1.0, min_distance=2.0, grid_step=1))
