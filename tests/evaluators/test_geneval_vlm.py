"""VLM-judged GenEval: its questions word by word, and its verdicts against GenEval's own on scenes whose objects are known."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluators.detection import Detections
from evaluators.detectors.coco import OBJECT_NAMES
from evaluators.geneval.folder import scan
from evaluators.geneval.metadata import PromptSpec
from evaluators.geneval.options import GenEvalOptions
from evaluators.geneval.relations import relations
from evaluators.geneval.scoring import crop_colors, score_image
from evaluators.geneval.summary import summarize as geneval_summary
from evaluators.geneval_vlm.judge import judge_images, score
from evaluators.geneval_vlm.questions import COUNTS, questions_of
from evaluators.geneval_vlm.questions import plural as plural_of
from evaluators.geneval_vlm.summary import summarize
from evaluators.vlm.protocol import Parts, images_of, text_of
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.errors import UserError
from rf_repro.core.records import EvalResult
from rf_repro.data.scenes.grammar import TASKS
from rf_repro.data.scenes.grammar import plural as shapes_plural
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.worlds.scenes.colors import SceneColorClassifier
from rf_repro.worlds.scenes.detector import SceneDetector
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, write_folder
from tests.evaluators.scripted import Scripted

DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}
JUDGE = {"judge": "someone"}


def asked(include: Sequence[dict[str, Any]], exclude: Sequence[dict[str, Any]] = ()) -> list[tuple[str, str]]:
    """(question, answers that are right) of a prompt."""
    fields = {"tag": "any", "prompt": "a prompt", "include": list(include), "exclude": list(exclude)}
    questions = questions_of(PromptSpec.parse(fields, "here"))
    return [(one.text, " ".join(one.answers[index] for index in one.right)) for one in questions]


def test_questions_of_geneval_s_six_tasks() -> None:
    there = ("Is there a dog in the image?", "yes")
    assert asked([DOG]) == [there]
    assert asked([DOG, CAT]) == [there, ("Is there a cat in the image?", "yes")]
    assert asked([{**DOG, "count": 3}], [{**DOG, "count": 4}]) == [there, ("How many dogs are in the image?", "three")]
    assert asked([{**DOG, "color": "red"}]) == [there, ("Is the dog red?", "yes")]
    left = {**DOG, "position": ["left of", 0]}
    both = [("Is there a cat in the image?", "yes"), there]
    assert asked([CAT, left]) == [*both, ("Is the dog to the left of the cat?", "yes")]
    assert asked([CAT, {**DOG, "position": ["above", 0]}])[-1] == ("Is the dog above the cat?", "yes")
    assert asked([{**CAT, "color": "red"}, {**DOG, "color": "blue"}]) == [
        *both, ("Is the cat red?", "yes"), ("Is the dog blue?", "yes")
    ]  # fmt: skip


def test_questions_beyond_the_official_prompts() -> None:
    """What GenEval's fields can say besides: at least so many, none, several of a colour, two of one class."""
    assert asked([{**DOG, "count": 8}])[-1] == ("How many dogs are in the image?", "eight nine ten")
    assert asked([CAT], [DOG]) == [("Is there a cat in the image?", "yes"), ("Is there a dog in the image?", "no")]
    assert asked([CAT], [{**DOG, "count": 3}])[-1] == ("How many dogs are in the image?", "zero one two")
    assert asked([{**DOG, "count": 2, "color": "red"}])[-1] == ("Are the dogs red?", "yes")
    assert asked([{**DOG, "color": "red"}, {**DOG, "color": "blue", "position": ["left of", 0]}]) == [
        ("Is there a dog in the image?", "yes"),
        ("Is there a red dog in the image?", "yes"),
        ("Is there a blue dog in the image?", "yes"),
        ("Is the blue dog to the left of the red dog?", "yes"),
    ]
    assert asked([{**DOG, "count": 2}, {**CAT, "count": 3, "position": ["below", 0]}])[-1] == (
        "Are the cats below the dogs?",
        "yes",
    )
    assert asked([{"class": "orange", "count": 1}]) == [("Is there an orange in the image?", "yes")]


def test_prompts_without_a_question_are_refused() -> None:
    with pytest.raises(UserError, match="ask for nothing that a question could be about"):
        asked([])
    with pytest.raises(UserError, match="11 objects of class 'dog'; answers count to 10"):
        asked([{**DOG, "count": 11}])


def test_plurals_of_geneval_s_classes() -> None:
    odd = {name: plural_of(name) for name in OBJECT_NAMES if plural_of(name) != f"{name}s"}
    assert odd == {
        "person": "people", "bus": "buses", "bench": "benches", "sheep": "sheep", "skis": "skis", "wine glass": "wine glasses",
        "knife": "knives", "sandwich": "sandwiches", "broccoli": "broccoli", "couch": "couches", "toothbrush": "toothbrushes",
        "computer mouse": "computer mice", "scissors": "scissors",
    }  # fmt: skip


class SceneJudge:
    """Answers from the objects of a scene, which the exact detector gives; it knows no prompt."""

    def __init__(self, config: ScenesConfig) -> None:
        self.singular = {shapes_plural(shape): shape for shape in config.shapes}
        self.detector, self.classifier = SceneDetector(config), SceneColorClassifier(config)

    def __call__(self, parts: Parts) -> str:
        (image,) = images_of(parts)
        question = text_of(parts).removesuffix(" Answer in one word.")
        (found,) = self.detector.detect([image])
        if match := re.fullmatch(r"Is there an? (\w+) in the image\?", question):
            return self.yes(len(self.seen(found, match[1])) > 0)
        if match := re.fullmatch(r"How many (\w+) are in the image\?", question):
            return COUNTS[len(self.seen(found, self.singular[match[1]]))]
        if match := re.fullmatch(r"Is the (\w+) (to the left of|to the right of|above|below) the (\w+)\?", question):
            subjects, targets = self.seen(found, match[1]), self.seen(found, match[3])
            relation = match[2].removeprefix("to the ")
            pairs = [relations(box, other, 0.1) for box in subjects.boxes[:1] for other in targets.boxes[:1]]
            return self.yes(bool(pairs) and relation in pairs[0])
        match = re.fullmatch(r"Is the (\w+) (\w+)\?", question)
        assert match, question
        objects = self.seen(found, match[1])
        return self.yes(len(objects) > 0 and crop_colors(image, self.classifier)(match[1], objects.take([0])) == [match[2]])

    @staticmethod
    def seen(found: dict[str, Detections], shape: str) -> Detections:
        objects = found.get(shape)
        if objects is None:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return objects.take(np.flatnonzero(objects.scores > 0.9).tolist())

    @staticmethod
    def yes(true: bool) -> str:
        return "yes" if true else "no"


@pytest.fixture(scope="module")
def scenes() -> tuple[ScenesConfig, list[dict[str, Any]], list[Image.Image]]:
    """A prompt and a scene that it describes, eight of each task."""
    config = ScenesConfig()
    world = ScenesWorld(config)
    chosen = [prompt.metadata for task in TASKS for prompt in world.benchmark(8) if prompt.metadata["tag"] == task]
    images = world.for_prompts(chosen, seed=0).images
    return config, chosen, [Image.fromarray(image) for image in images]


def judged(
    folder: Path, prompts: Sequence[dict[str, Any]], images: Sequence[Sequence[Image.Image]], judge: SceneJudge
) -> tuple[EvalResult, list[dict[str, Any]]]:
    write_folder(folder / "images", images, prompts)
    found = scan(folder / "images", prompts, images_per_prompt=len(images[0]))
    assert found.problems == ()
    replies = judge_images(found, Scripted(judge), folder / "replies.jsonl", prompt_set="scenes")
    return score(found, replies, prompt_set="scenes", judge=JUDGE, partial=False)


def test_true_objects_score_one_on_matching_scenes(
    scenes: tuple[ScenesConfig, list[dict[str, Any]], list[Image.Image]], tmp_path: Path
) -> None:
    config, prompts, images = scenes
    result, rows = judged(tmp_path, prompts, [[image] for image in images], SceneJudge(config))
    assert set(result.metrics.values()) == {1.0}
    assert (result.benchmark, result.n, result.expected_n, result.missing) == ("geneval-vlm", len(prompts), len(prompts), {})
    assert all(row["correct"] and row["reason"] == "" for row in rows)


def test_verdicts_on_mismatched_scenes_are_geneval_s(
    scenes: tuple[ScenesConfig, list[dict[str, Any]], list[Image.Image]], tmp_path: Path
) -> None:
    """Each prompt with its own scene and others': the same judge of the same objects decides as GenEval's rules do."""
    config, prompts, images = scenes
    moved = [[images[(place + offset) % len(images)] for offset in (0, 1, 7, 17)] for place in range(len(prompts))]
    result, rows = judged(tmp_path, prompts, moved, SceneJudge(config))
    detector, classifier = SceneDetector(config), SceneColorClassifier(config)
    verdicts = [
        score_image(fields, detector.detect([image])[0], crop_colors(image, classifier), GenEvalOptions(threshold=0.9)).correct
        for fields, others in zip(prompts, moved, strict=True)
        for image in others
    ]
    assert [row["correct"] for row in rows] == verdicts
    assert len(prompts) < sum(verdicts) < len(verdicts) / 2  # a few scenes are right for prompts that are not theirs
    metrics, _ = geneval_summary(rows)
    for name in (*TASKS, "overall"):
        assert result.metrics[f"{name}_hard"] == pytest.approx(metrics[name], abs=1e-15)
        # Answers are certain here: one wrong answer makes the geometric mean 0, and so does the verdict.
        assert result.metrics[f"{name}_gm"] == result.metrics[f"{name}_hard"]
        assert (result.metrics[f"{name}_am"] or 0) >= (result.metrics[f"{name}_gm"] or 0)
    assert (result.metrics["overall_am"] or 1) < 1
    wrong = next(row for row in rows if row["tag"] == "counting" and not row["correct"])
    assert wrong["reason"] == next(f"{one['text']} {one['said']}" for one in wrong["questions"] if not one["right"])


class Fixed:
    """The same probabilities for every question of a number of choices."""

    revision = "fixed"
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, values: dict[int, list[float]]) -> None:
        self.values = values

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        raise AssertionError("only probabilities are asked")

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        return [self.values[len(groups)] for groups in choices]


def test_the_likeliest_answer_decides_and_a_tie_does_not(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", [[RED_COW_BLUE_DOG, TWO_COWS]] * len(PROMPTS))
    counting = {**PROMPTS[2], "include": [{"class": "cow", "count": 2}], "exclude": [{"class": "cow", "count": 4}]}
    prompts = [*PROMPTS[:2], counting, *PROMPTS[3:]]
    (root / "00002" / "metadata.jsonl").write_text(json.dumps(counting))
    found = scan(root, prompts, images_per_prompt=2)

    def rows(yes: float, no: float, counts: list[float], name: str) -> list[dict[str, Any]]:
        replies = judge_images(found, Fixed({2: [yes, no], 11: counts}), tmp_path / name, prompt_set="drawn")
        return score(found, replies, prompt_set="drawn", judge=JUDGE, partial=False)[1]

    numbers = [0.0] * 11
    numbers[2], numbers[3], numbers[5] = 0.2, 0.1, 0.15  # two and three are right, and together likelier than each alone
    sure = rows(0.4, 0.1, numbers, "sure.jsonl")
    assert all(row["correct"] for row in sure)
    cows = next(row for row in sure if row["tag"] == "counting")
    assert [question["score"] for question in cows["questions"]] == pytest.approx([0.4, 0.3])
    assert cows["soft_tifa_gm"] == pytest.approx((0.4 * 0.3) ** 0.5, abs=1e-15)
    numbers[5] = 0.25  # likelier than any one right number
    assert [row["correct"] for row in rows(0.4, 0.1, numbers, "five.jsonl") if row["tag"] == "counting"] == [False, False]
    assert not any(row["correct"] for row in rows(0.3, 0.3, numbers, "tie.jsonl"))


def test_overall_is_the_mean_of_tasks_and_lacks_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"tag": task, "prompt_id": 10 * place + index // 2, "correct": bool(rng.random() < 0.6), "soft_tifa_am": rng.random(),
         "soft_tifa_gm": rng.random()}
        for place, task in enumerate(TASKS) for index in range(2 * (place + 1))
    ]  # fmt: skip
    metrics, missing = summarize(rows)
    assert missing == {}
    for ending, field in (("am", "soft_tifa_am"), ("gm", "soft_tifa_gm"), ("hard", "correct")):
        means = [np.mean([row[field] for row in rows if row["tag"] == task]) for task in TASKS]
        assert [metrics[f"{task}_{ending}"] for task in TASKS] == pytest.approx(means, abs=1e-12)
        assert metrics[f"overall_{ending}"] == pytest.approx(np.mean(means), abs=1e-12)
        low, high = metrics[f"overall_{ending}_low"], metrics[f"overall_{ending}_high"]
        assert low is not None
        assert high is not None
        assert low <= np.mean(means) <= high
    rows[0]["correct"] = None  # single_object has two images, both unscored now
    rows[1]["correct"] = None
    metrics, missing = summarize(rows)
    assert {metrics[name] for name in ("single_object_am", "overall_gm", "overall_hard_low")} == {None}
    assert missing["overall_am"] == "no score for single_object"
    assert set(missing) == {name for name, value in metrics.items() if value is None}
