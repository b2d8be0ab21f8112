"""GenEval 2's scores against brute force, known judges, and images that are not as they should be."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import gmean

from evaluators.geneval2.data import Item, load
from evaluators.geneval2.images import find_images
from evaluators.geneval2.judge import judge_images, queries, score, score_lists
from evaluators.geneval2.soft_tifa import arithmetic_mean, geometric_mean, interval
from evaluators.geneval2.spellings import number
from evaluators.vlm.protocol import Parts, SomeFailed, VisionLanguageModel, images_of, text_of
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.records import EvalResult
from tests.evaluators.geneval2_files import Drawn, make_rows, perfect, shown, write_images, write_rows
from tests.evaluators.scripted import Scripted

JUDGE = {"judge": "someone"}


class Files:
    def __init__(self, folder: Path, num: int) -> None:
        self.rows = make_rows(num)
        self.items = load(str(write_rows(folder / "data.jsonl", self.rows)))
        self.images = write_images(folder, self.rows)
        self.store = folder / "replies.jsonl"

    def evaluate(self, model: VisionLanguageModel, **rest: Any) -> tuple[EvalResult, list[dict[str, Any]]]:
        partial = rest.pop("partial", False)
        found = find_images(rest.pop("images", self.images), self.items)
        replies = judge_images(found, self.items, model, self.store, data="custom", **rest)
        return score(found, self.items, replies, data="custom", judge=JUDGE, partial=partial)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, 25)


def brute_force(items: Sequence[Item]) -> dict[str, float]:
    """The official analysis, written out: sums and counts by skill, geometric means by atomicity."""
    spelt = {**{answer: number(answer) for answer in ("one", "two", "three", "four", "five", "six", "seven")},
             "Yes": ("Yes", "yes", " yes", " Yes")}  # fmt: skip
    am, gm = [], []
    skills: dict[str, list[float]] = {}
    atomicities: dict[int, list[float]] = {}
    for index, item in enumerate(items):
        scores = []
        for question in item.questions:
            text = question.text + " Answer in one word."
            scores.append(Drawn.probability(index, text, spelt[question.answer]))
            skills.setdefault(question.skill, []).append(scores[-1])
        am.append(sum(scores) / len(scores))
        gm.append(gmean(scores))
        atomicities.setdefault(item.atom_count, []).append(gm[-1])
    return {
        "soft_tifa_am": sum(am) / len(am),
        "soft_tifa_gm": sum(gm) / len(gm),
        **{f"skill_{name}": sum(values) / len(values) for name, values in skills.items()},
        **{f"atomicity_{count}": sum(values) / len(values) for count, values in atomicities.items()},
    }


def test_scores_by_skill_and_atomicity_equal_brute_force(files: Files) -> None:
    result, rows = files.evaluate(Drawn(), batch_size=4)
    expected = brute_force(files.items)
    measured = {name: value for name, value in result.metrics.items() if not name.endswith(("_low", "_high"))}
    assert measured == pytest.approx(expected, abs=1e-12)
    assert {f"atomicity_{count}" for count in range(3, 11)} <= measured.keys()
    assert (result.n, result.expected_n, result.failures, result.missing) == (25, 25, 0, {})
    assert result.protocol == "geneval2-v1 distinct-tokens custom"
    for name in ("soft_tifa_am", "soft_tifa_gm"):
        low, high = result.metrics[f"{name}_low"], result.metrics[f"{name}_high"]
        assert low is not None
        assert high is not None
        assert low < expected[name] < high
    lists = score_lists(rows)
    assert [len(scores) for scores in lists] == [len(item.questions) for item in files.items]
    assert float(np.mean([np.mean(scores) for scores in lists])) == pytest.approx(expected["soft_tifa_am"], abs=1e-12)


def test_judges_whose_scores_are_known(files: Files) -> None:
    right, _ = files.evaluate(perfect(files.rows))
    assert set(right.metrics.values()) == {1.0}
    files.store.unlink()
    wrong, _ = files.evaluate(Scripted(lambda parts: "No", "wrong"))
    assert set(wrong.metrics.values()) == {0.0}


def test_one_wrong_answer_annihilates_the_geometric_mean_alone(files: Files) -> None:
    def all_but_the_first_count(parts: Parts) -> str:
        """Right, but for how many bicycles there are."""
        if "How many bicycles" in text_of(parts):
            return "five"
        return dict(files.rows[shown(parts)]["vqa_list"])[text_of(parts).removesuffix(" Answer in one word.")]

    result, rows = files.evaluate(Scripted(all_but_the_first_count))
    assert (rows[0]["soft_tifa_am"], rows[0]["soft_tifa_gm"]) == (6 / 7, 0.0)
    assert result.metrics["soft_tifa_gm"] == 24 / 25
    assert result.metrics["soft_tifa_am"] == pytest.approx((24 + 6 / 7) / 25, abs=1e-15)
    assert result.metrics["skill_object"] == 1.0
    counts = sum(question.skill == "count" for item in files.items for question in item.questions)
    assert result.metrics["skill_count"] == pytest.approx(1 - 1 / counts, abs=1e-15)


def test_numbers_count_in_words_and_digits() -> None:
    assert number("four") == ("four", "Four", " four", " Four", "4", " 4")
    assert number("ten")[4:] == ("10", " 10")


def test_geometric_means_keep_their_digits() -> None:
    tiny = [1e-40] * 10  # their product is no float64
    assert geometric_mean(tiny) == pytest.approx(1e-40, rel=1e-12)
    assert geometric_mean([0.5, 0.0, 1.0]) == 0.0
    assert arithmetic_mean([0.5, 0.0, 1.0]) == 0.5
    scores = np.random.default_rng(0).uniform(1e-6, 1, 100)
    assert geometric_mean(list(scores)) == pytest.approx(float(gmean(scores)), rel=1e-13)
    with pytest.raises(ValueError, match="no score"):
        geometric_mean([])


def test_intervals_are_those_of_a_mean() -> None:
    """Against the normal approximation, which is good for 800 prompts."""
    values = np.random.default_rng(1).beta(2, 1, 800)
    low, high = interval([list(values)])
    error = values.std() / math.sqrt(800)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.05 * error)
    low, high = interval([list(values), [0.5] * 30])
    assert (low + high) / 2 == pytest.approx((values.mean() + 0.5) / 2, abs=0.1 * error)
    assert high - low == pytest.approx(1.96 * error, rel=0.05)


def test_the_questions_of_an_image_follow_each_other_and_share_it(files: Files) -> None:
    model = Drawn()
    files.evaluate(model, batch_size=3)
    indices = [shown(parts) for parts in model.asked]
    assert indices == [index for index, item in enumerate(files.items) for _ in item.questions]
    objects: dict[int, set[int]] = {}
    for index, parts in zip(indices, model.asked, strict=True):
        objects.setdefault(index, set()).add(id(images_of(parts)[0]))
    assert all(len(same) == 1 for same in objects.values())
    keys = [query.key for query in queries(find_images(files.images, files.items), files.items)]
    assert keys == sorted(keys)


def test_a_new_image_is_asked_about_anew_and_no_other(files: Files) -> None:
    files.evaluate(Drawn())
    Image.new("RGB", (24, 16), (3, 51, 90)).save(files.images.parent / "drawn" / "3.png")
    model = Drawn()
    files.evaluate(model)
    assert [shown(parts) for parts in model.asked] == [3] * len(files.items[3].questions)


def test_shares_together_are_the_whole(files: Files) -> None:
    whole, rows = files.evaluate(Drawn(), batch_size=4)
    complete = files.store.read_bytes()
    files.store.unlink()
    found = find_images(files.images, files.items)
    for index in (2, 0, 1):
        judge_images(found, files.items, Drawn(), files.store, data="custom", batch_size=4, shard=(index, 3))
    model = Drawn()
    assert files.evaluate(model, batch_size=4) == (whole, rows)
    assert model.asked == []
    assert files.store.read_bytes() == complete


class Flaky(Drawn):
    """Has no reply to questions about zebras."""

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        replies = super().choice_probabilities(batch, choices)
        lost = {index: "the line broke" for index, parts in enumerate(batch) if "zebra" in text_of(parts)}
        if lost:
            raise SomeFailed([None if index in lost else reply for index, reply in enumerate(replies)], lost)
        return replies


def test_a_question_without_a_reply_is_no_wrong_answer(files: Files) -> None:
    with pytest.raises(UserError, match=r"of 25 prompts have a score; of image \d+: the line broke; run again to ask"):
        files.evaluate(Flaky())
    result, rows = files.evaluate(Flaky(), partial=True)
    lost = [row for row in rows if any("zebra" in question["text"] for question in row["questions"])]
    assert (result.n, result.expected_n, result.failures) == (25 - len(lost), 25, len(lost))
    assert all(row["soft_tifa_am"] is None and row["failure"] == "the line broke" for row in lost)
    kept = [row["soft_tifa_gm"] for row in rows if not row["failure"]]
    assert result.metrics["soft_tifa_gm"] == pytest.approx(sum(kept) / len(kept), abs=1e-15)
    model = Drawn()
    whole, _ = files.evaluate(model)
    assert len(model.asked) == sum("zebra" in question.text for item in files.items for question in item.questions)
    assert whole.metrics["soft_tifa_gm"] == pytest.approx(brute_force(files.items)["soft_tifa_gm"], abs=1e-12)


def test_what_is_amiss_with_images_is_named(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = json.loads(files.images.read_text())
    prompts = [row["prompt"] for row in files.rows]
    del paths[prompts[1]]
    (tmp_path / paths[prompts[2]]).write_bytes(b"none")
    paths[prompts[3]] = "drawn/nowhere.png"
    paths["a prompt of mine"] = "drawn/0.png"
    paths[prompts[4]] = str(tmp_path / paths[prompts[4]])
    files.images.write_text(json.dumps(paths))
    found = find_images(files.images, files.items)
    assert [(problem.kind, problem.path) for problem in found.problems] == [
        ("unknown prompt", "a prompt of mine"),
        ("missing prompt", prompts[1]),
        ("damaged image", str(tmp_path / "drawn" / "2.png")),
        ("damaged image", "drawn/nowhere.png"),
    ]
    assert [image.prompt_id for image in found.images] == [0, *range(4, 25)]
    with pytest.raises(UserError, match="22 of 25 prompts have a score; run again to ask what failed, or give partial=True"):
        files.evaluate(perfect(files.rows))
    result, _ = files.evaluate(perfect(files.rows), partial=True)
    assert (result.n, result.failures, result.metrics["soft_tifa_gm"]) == (22, 2, 1.0)
    # As the official script, which reads them from where it is started.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "images.json").write_text(json.dumps({prompts[0]: "drawn/0.png"}))
    monkeypatch.chdir(tmp_path)
    assert len(find_images(elsewhere / "images.json", files.items).images) == 1


def test_a_folder_of_samples_is_known_by_its_metadata(files: Files, tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "sampled")
    for index, row in enumerate(files.rows):
        folder.write_prompt(index, {"tag": "geneval2", "include": [], "prompt": row["prompt"]})
        folder.write_image(index, 0, 0, Image.new("RGB", (8, 8), (index, 0, 0)))
    result, _ = files.evaluate(perfect(files.rows), images=folder.path)
    assert result.metrics["soft_tifa_am"] == 1.0
    folder.write_prompt(7, {"tag": "geneval2", "include": [], "prompt": "another"})
    found = find_images(folder.path, files.items)
    assert [(problem.kind, problem.path) for problem in found.problems] == [("wrong metadata", "00007/metadata.jsonl")]
    assert len(found.images) == 24


def test_files_that_are_no_images_of_prompts_are_refused(files: Files, tmp_path: Path) -> None:
    for text, message in (("[1]", "must be one JSON object"), ("{", "not valid JSON"), ('{"a": 1}', "must be one JSON object")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=message):
            find_images(tmp_path / "bad.json", files.items)
    with pytest.raises(UserError, match="name a folder of images, or a JSON file"):
        find_images(tmp_path / "nowhere", files.items)
