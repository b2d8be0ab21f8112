"""DPG-Bench on folders of grids: known scores of scripted judges, mPLUG's way and a judge's, stores, shards, killing."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators import dpg
from evaluators.dpg.calibrate import calibrate
from evaluators.dpg.data import Benchmark, parse
from evaluators.dpg.folder import scan
from evaluators.dpg.judge import Judge
from evaluators.dpg.outcome import DPGEvaluation, score_replies
from evaluators.dpg.run import ask_judge
from evaluators.vlm.protocol import Parts, SomeFailed, images_of, text_of
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_jsonl
from tests.evaluators.dpg_world import COLORS, csv_text, simple_rows, write_grid, write_grids
from tests.evaluators.scripted import Scripted

BENCHMARK = parse(csv_text(simple_rows()).encode(), "made", "made")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    return write_grids(tmp_path / "grids", list(BENCHMARK.items))


def judged(folder: Path, judge: Judge, store: Path, benchmark: Benchmark = BENCHMARK, **settings: Any) -> DPGEvaluation:
    found = scan(folder, benchmark.items)
    return score_replies(found, benchmark, judge, ask_judge(found, benchmark, judge, store, **settings))


def cell(parts: Parts) -> int:
    """Which cell of its grid the image is."""
    (image,) = images_of(parts)
    color = image.getpixel((0, 0))
    assert isinstance(color, tuple)
    return COLORS.index((int(color[0]), int(color[1]), int(color[2]) // 200 * 200))


def scripted(reply: Callable[[Parts], str], **settings: Any) -> Judge:
    return Judge("script", Scripted(reply), **settings)


@pytest.mark.parametrize("is_mplug", [False, True])
@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (lambda parts: "yes", 1.0),
        (lambda parts: "no", 0.0),
        (lambda parts: "yes" if cell(parts) == 0 else "no", 1 / 4),
        (lambda parts: "yes" if "Is it 1" in text_of(parts) else "no", 1 / 3),
        (lambda parts: "no" if "Is it 1" in text_of(parts) else "yes", 0.0),  # the root's no takes all with it
        (lambda parts: "no" if "Is it 2" in text_of(parts) else "yes", 1 / 3),
        (lambda parts: "no" if "Is it 3" in text_of(parts) or cell(parts) == 3 else "yes", 3 / 4 * 2 / 3),
    ],
)
def test_known_scores(is_mplug: bool, reply: Callable[[Parts], str], score: float, grids: Path, tmp_path: Path) -> None:
    outcome = judged(grids, scripted(reply, is_mplug=is_mplug), tmp_path / "out" / "replies.jsonl")
    metrics = outcome.metrics
    assert metrics["dpg"] == pytest.approx(score, abs=1e-12)
    assert metrics["dpg_official"] == pytest.approx(score, abs=1e-12)
    assert (outcome.n, outcome.expected_n, outcome.failures, outcome.missing) == (3, 3, 0, {})
    assert outcome.dropped == {"partiprompts97.png": "KeyError: 1: a parent that was skipped"}
    assert [row["correct"] for row in outcome.rows] == pytest.approx([score] * 3, abs=1e-12)
    assert outcome.benchmark == ("dpg" if is_mplug else "dpg(script)")
    assert ("DPG(script)" in outcome.protocol) != is_mplug


def test_each_cell_and_question_has_its_own_answer(grids: Path, tmp_path: Path) -> None:
    """Answers from a table; categories of the official way are the last cell's, before the parent rule."""
    yes = {(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 1), (3, 3)}

    def reply(parts: Parts) -> str:
        number = int(text_of(parts).split()[2])
        return "yes" if (cell(parts), number) in yes else "no"

    outcome = judged(grids, scripted(reply), tmp_path / "replies.jsonl")
    (row,) = [row for row in outcome.rows if row["item_id"] == "256"]
    assert [image["answers"] for image in row["images"]] == [[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]]
    assert [image["after_parents"] for image in row["images"]] == [[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert (row["correct"], row["official"]) == (pytest.approx(0.5), pytest.approx(0.5))
    metrics = outcome.metrics
    second, third = "entity - part", "attribute - color"
    assert (metrics[f"dpg_official/l2/{second}"], metrics[f"dpg_official/l2/{third}"]) == (0, 1)
    assert (metrics[f"dpg/l2/{second}"], metrics[f"dpg/l2/{third}"]) == (0.5, 0.25)
    assert (metrics["dpg/l1/entity"], metrics["dpg_official/l1/entity"]) == (pytest.approx((0.75 + 0.5) / 2), 0.5)


def test_how_each_judge_is_asked(grids: Path, tmp_path: Path) -> None:
    asked: list[Parts] = []

    def reply(parts: Parts) -> str:
        asked.append(parts)
        return "Yes"

    outcome = judged(grids, scripted(reply), tmp_path / "a.jsonl")
    assert {text_of(parts) for parts in asked} == {f"{question.text} Answer yes or no." for question in BENCHMARK.rows}
    assert len(asked) == 4 * 9
    assert outcome.metrics["dpg"] == 1  # a spelling of yes
    asked.clear()
    outcome = judged(grids, scripted(reply, is_mplug=True), tmp_path / "b.jsonl")
    assert {text_of(parts) for parts in asked} == {question.text for question in BENCHMARK.rows}
    assert outcome.metrics["dpg"] == 0  # "Yes" is not "yes"


def test_a_tie_is_a_no_and_only_the_two_words_count(grids: Path, tmp_path: Path) -> None:
    class Unsure(Scripted):
        def choice_probabilities(self, batch: Any, choices: Any) -> list[list[float]]:
            for groups in choices:
                assert [set(group) for group in groups] == [{"Yes", "yes", " yes", " Yes"}, {"No", "no", " no", " No"}]
            return [[0.01, 0.005] if cell(parts) < 2 else [0.1, 0.1] for parts in batch]

    judge = Judge("unsure", Unsure(lambda parts: "", "unsure"))
    assert judged(grids, judge, tmp_path / "replies.jsonl", batch_size=5).metrics["dpg"] == 0.5


def test_equal_images_are_asked_about_once_and_replies_are_kept(grids: Path, tmp_path: Path) -> None:
    count = 0

    def reply(parts: Parts) -> str:
        nonlocal count
        count += 1
        return "yes"

    for item_id in BENCHMARK.items:
        write_grid(grids / f"{item_id}.png", [(9, 9, 9)] * 4)
    first = judged(grids, scripted(reply), tmp_path / "replies.jsonl")
    assert count == 9
    write_grid(grids / "256.png", [(9, 9, 9)] * 3 + [(8, 8, 8)])  # one new cell
    second = judged(grids, scripted(reply), tmp_path / "replies.jsonl")
    assert count == 9 + 3
    assert first.metrics == second.metrics
    with pytest.raises(UserError, match="of another protocol"):
        judged(grids, scripted(reply, is_mplug=True), tmp_path / "replies.jsonl")


def test_shards_give_what_one_process_gives(grids: Path, tmp_path: Path) -> None:
    whole = judged(grids, scripted(decide), tmp_path / "whole" / "replies.jsonl")
    store = tmp_path / "shards" / "replies.jsonl"
    found = scan(grids, BENCHMARK.items)
    for index in (2, 0, 1):
        ask_judge(found, BENCHMARK, scripted(decide), store, share=(index, 3))

    def never(parts: Parts) -> str:
        raise AssertionError(parts)

    together = judged(grids, scripted(never), store)
    assert (together.to_dict(), together.rows) == (whole.to_dict(), whole.rows)
    assert store.read_bytes() == (tmp_path / "whole" / "replies.jsonl").read_bytes()


def decide(parts: Parts) -> str:
    """Yes to two thirds of all questions, by their hash."""
    (image,) = images_of(parts)
    return "yes" if hashlib.sha256(text_of(parts).encode() + image.tobytes()).digest()[0] % 3 else "no"


KILLED = """
import os, signal, sys
from pathlib import Path
from evaluators.dpg.judge import Judge
from tests.evaluators.scripted import Scripted
from rf_repro.core.files import write_json, write_jsonl
from tests.evaluators.test_dpg_evaluate import decide, judged

grids, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
asked = 0

def reply(parts):
    global asked
    asked += 1
    if asked > most:
        os.kill(os.getpid(), signal.SIGKILL)
    return decide(parts)

outcome = judged(grids, Judge("script", Scripted(reply)), out / "replies.jsonl", batch_size=2)
write_jsonl(out / "items.jsonl", outcome.rows)
write_json(out / "result.json", outcome.to_dict())
print(asked)
"""


def test_killed_and_resumed_it_ends_with_the_same_bytes(grids: Path, tmp_path: Path) -> None:
    def run(out: str, most: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(grids), str(tmp_path / out), str(most)], cwd=ROOT, capture_output=True, text=True
        )

    assert run("whole", 1000).stdout.split() == ["36"]
    assert run("killed", 13).returncode == -signal.SIGKILL
    assert len(read_jsonl(tmp_path / "killed" / "replies.jsonl")) == 1 + 12
    assert not (tmp_path / "killed" / "result.json").exists()
    assert run("killed", 1000).stdout.split() == ["24"]
    for name in ("replies.jsonl", "items.jsonl", "result.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_has_no_reply_has_no_score(grids: Path, tmp_path: Path) -> None:
    """One question fails: fixed has no number and says why; the official way drops the file; asked again, all is well."""

    class Flaky(Scripted):
        broken = True

        def choice_probabilities(self, batch: Any, choices: Any) -> list[list[float]]:
            replies: list[Any] = super().choice_probabilities(batch, choices)
            lost = {i: "timed out" for i, parts in enumerate(batch) if self.broken and "Is it 2 in 256?" in text_of(parts)}
            if lost:
                raise SomeFailed([None if i in lost else reply for i, reply in enumerate(replies)], lost)
            return replies

    model = Flaky(lambda parts: "yes")
    outcome = judged(grids, Judge("flaky", model), tmp_path / "replies.jsonl", batch_size=4)
    assert outcome.unscored == {"256.png": "question 'Is it 2 in 256?': timed out"}
    assert (outcome.metrics["dpg"], outcome.n, outcome.failures) == (None, 2, 1)
    assert outcome.missing["dpg"].startswith("1 of 3 files have no score, first: question 'Is it 2 in 256?'")
    assert outcome.metrics["dpg_official"] == 1
    assert set(outcome.dropped) == {"256.png", "partiprompts97.png"}
    (row,) = [row for row in outcome.rows if row["item_id"] == "256"]
    assert (row["correct"], row["images"]) == (None, [])
    model.broken = False
    assert judged(grids, Judge("flaky", model), tmp_path / "replies.jsonl", batch_size=4).metrics["dpg"] == 1


def test_an_incomplete_folder_is_refused_unless_scored_as_the_script_does(grids: Path, tmp_path: Path) -> None:
    asked: list[Parts] = []

    def reply(parts: Parts) -> str:
        asked.append(parts)
        return "yes" if images_of(parts)[0].getpixel((5, 5)) != (0, 0, 0) else "no"

    (grids / "drawtext1.png").unlink()
    write_grid(grids / "256.png", side=4)
    questions = tmp_path / "questions.csv"
    questions.write_text(csv_text(simple_rows()), encoding="utf-8")
    options = dpg.Options(model=Scripted(reply), name="script", csv=questions, resolution=6)
    for compat in ("fixed", "both"):
        with pytest.raises(UserError, match=r"2 problems, first wrong size: 256\.png: is 8x8, not 12x12.*; complete the folder"):
            dpg.evaluate(grids, replace(options, compat=compat))  # type: ignore[arg-type]
    assert not asked  # checked before anything is asked
    outcome = dpg.evaluate(grids, replace(options, compat="official"))
    # Of the small grid the first cell alone is whole; partiprompts97 is dropped, drawtext1 not missed.
    assert outcome.metrics == {"dpg": None, "dpg_official": 0.25} | {
        f"dpg_official/l{level}/{name}": 0.0
        for level, names in ((1, ("attribute", "entity")), (2, ("attribute - color", "entity - part", "entity - whole")))
        for name in names
    }
    assert outcome.missing["dpg"].startswith("--compat official alone")
    assert (outcome.fixed, outcome.n, outcome.expected_n) == (None, 1, 3)


def test_two_judges_are_compared_on_the_same_images(grids: Path, tmp_path: Path) -> None:
    first = judged(grids, scripted(lambda parts: "yes" if cell(parts) < 2 else "no"), tmp_path / "a.jsonl").rows
    second = judged(grids, scripted(lambda parts: "yes" if cell(parts) in (0, 3) else "no"), tmp_path / "b.jsonl").rows
    found = calibrate(first, second)
    assert (found.files, found.questions, found.agreement, found.yes, found.scores) == (3, 36, 0.5, (0.5, 0.5), (0.5, 0.5))
    assert (found.kappa, found.difference, found.half_width, found.correlation) == (0, 0, 0, None)
    same = calibrate(first, first)
    assert (same.agreement, same.kappa) == (1, 1)
    third = judged(grids, scripted(lambda parts: "yes" if "256" in text_of(parts) else "no"), tmp_path / "c.jsonl").rows
    fourth = judged(grids, scripted(lambda parts: "yes"), tmp_path / "d.jsonl").rows
    found = calibrate(third, fourth)
    assert (found.agreement, found.kappa, found.yes) == (pytest.approx(1 / 3), 0, (pytest.approx(1 / 3), 1))
    assert found.difference == pytest.approx(2 / 3)
    assert found.half_width == pytest.approx(1.96 * (1 / 3))  # gaps 0, 1, 1: deviation 1/sqrt(3), over sqrt(3)
    write_grid(grids / "256.png", [(1, 1, 1)] * 4)
    moved = judged(grids, scripted(lambda parts: "yes"), tmp_path / "e.jsonl").rows
    with pytest.raises(UserError, match="256: the two results are of different images"):
        calibrate(first, moved)
    with pytest.raises(UserError, match="of different prompts"):
        calibrate(first, second[:2])
