"""The ask engine: resumed after any kill to the bytes of an undisturbed run; shards; failures; identity."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators.vlm.ask import GIVE_UP, Replies, ask, make_batches, shard_path
from evaluators.vlm.protocol import Parts, Query, SomeFailed
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_jsonl, write_jsonl
from tests.evaluators.asking import BATCH, COUNT, QUERIES, ask_all, reply
from tests.evaluators.scripted import Scripted
from tests.killing import kill_at

EXPECTED = Replies(
    answers={f"q{n}": f"number {n}" for n in range(COUNT) if n % 5 and n != 7},
    probabilities={f"q{n}": [float(n % 2 == 0), float(n % 2)] for n in range(0, COUNT, 5)},
    failures={"q7": "cannot be loaded: OSError: truncated"},
)


def words(*texts: str) -> list[Query]:
    return [Query(text, lambda text=text: (text,)) for text in texts]


class Counting(Scripted):
    """Counts what it is asked, in batches, and fails as it is told."""

    def __init__(self, bad: Sequence[str] = (), name: str = "counting") -> None:
        super().__init__(lambda parts: str(parts[0]).upper(), name)
        self.batches: list[list[str]] = []
        self.bad = bad

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        self.batches.append([str(parts[0]) for parts in batch])
        reasons = {i: "the server is down" for i, parts in enumerate(batch) if parts[0] in self.bad}
        replies = super().answer(batch, max_new_tokens)
        if reasons:
            raise SomeFailed([None if i in reasons else text for i, text in enumerate(replies)], reasons)
        return replies


def test_every_question_has_its_reply(tmp_path: Path) -> None:
    assert ask_all(tmp_path / "store.jsonl") == EXPECTED
    first, *rows = read_jsonl(tmp_path / "store.jsonl")
    assert first == {
        "model": "scripted: script", "settings": {}, "protocol": "numbers-v1", "max_new_tokens": 9, "batch_size": BATCH,
    }  # fmt: skip
    assert [row["key"] for row in rows] == [f"q{n}" for n in range(COUNT)]


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    ask_all(whole)
    kept = []
    for times in (4, 3, 6, 5):
        kill_at(str(killed), times, ask_all, killed)
        kept.append(lines_of(killed))
    assert kept[0] > 2
    assert sorted(kept) == kept, "what was written is not lost"
    assert ask_all(killed) == EXPECTED
    assert killed.read_bytes() == whole.read_bytes()


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_a_store_cut_anywhere_is_completed(cut: int, tmp_path: Path) -> None:
    """As a kill in the middle of a write, or a full disk, leaves it."""
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    ask_all(whole)
    torn.write_bytes(whole.read_bytes()[:cut])
    assert ask_all(torn) == EXPECTED
    assert torn.read_bytes() == whole.read_bytes()


def test_batches_are_asked_whole_and_only_what_is_missing_is_kept(tmp_path: Path) -> None:
    store, model = tmp_path / "store.jsonl", Counting()
    names = [f"w{i}" for i in range(7)]
    ask(words(*names), model, store, protocol="p", max_new_tokens=3, batch_size=3)
    undisturbed = [["w0", "w1", "w2"], ["w3", "w4", "w5"], ["w6"]]
    assert model.batches == undisturbed
    rows = read_jsonl(store)
    write_jsonl(store, [*rows[:5], {**rows[5], "answer": "kept"}])  # w3 and w4 of the second batch
    again = Counting()
    replies = ask(words(*names), again, store, protocol="p", max_new_tokens=3, batch_size=3)
    assert again.batches == undisturbed[1:]
    assert replies.answers == {name: name.upper() for name in names} | {"w4": "kept"}
    silent = Counting(bad=names)
    assert ask(words(*names), silent, store, protocol="p", max_new_tokens=3, batch_size=3) == replies
    assert not silent.batches


def test_failures_are_named_and_asked_again(tmp_path: Path) -> None:
    store, names, reports = tmp_path / "store.jsonl", ["a", "b", "c", "d"], [(0, 0)][:0]

    def again(bad: Sequence[str]) -> Replies:
        return ask(
            words(*names), Counting(bad), store, protocol="p", max_new_tokens=3, batch_size=2,
            progress=lambda done, total: reports.append((done, total)),
        )  # fmt: skip

    replies = again(["b", "c"])
    assert replies == Replies({"a": "A", "d": "D"}, {}, {"b": "the server is down", "c": "the server is down"})
    assert reports == [(0, 4), (2, 4), (4, 4)]
    assert read_jsonl(store)[2] == {"key": "b", "failure": "the server is down"}
    assert again(["c"]).failures == {"c": "the server is down"}
    assert again([]) == Replies({name: name.upper() for name in names})
    assert [row["key"] for row in read_jsonl(store)[1:]] == names
    undisturbed = tmp_path / "undisturbed.jsonl"
    ask(words(*names), Counting(), undisturbed, protocol="p", max_new_tokens=3, batch_size=2)
    assert undisturbed.read_bytes() == store.read_bytes()


def test_when_all_fail_it_gives_up(tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(3 * GIVE_UP)]
    model = Counting(bad=names[4:])
    with pytest.raises(UserError, match=rf"^p: {GIVE_UP} questions in a row failed, the last with: the server is down$"):
        ask(words(*names), model, tmp_path / "store.jsonl", protocol="p", max_new_tokens=3, batch_size=2)
    assert len(model.batches) == (4 + GIVE_UP) // 2
    every_other = Counting(bad=names[::2])
    replies = ask(words(*names), every_other, tmp_path / "store.jsonl", protocol="p", max_new_tokens=3, batch_size=2)
    assert len(replies.failures) == len(names[4::2])


@pytest.mark.parametrize("count", [2, 5, 40])
def test_shards_together_are_the_whole(count: int, tmp_path: Path) -> None:
    whole, store = tmp_path / "whole.jsonl", tmp_path / "store.jsonl"
    ask_all(whole)
    shards = [ask_all(store, shard=(index, count)) for index in reversed(range(count))]
    for kind in ("answers", "probabilities", "failures"):
        parts = [getattr(shard, kind) for shard in shards]
        assert sum(map(len, parts)) == len(getattr(EXPECTED, kind))
        assert {key: value for part in parts for key, value in part.items()} == getattr(EXPECTED, kind)
    assert not store.exists()
    before = {path: path.read_bytes() for path in tmp_path.glob("store.shard-*")}
    assert len(before) == count
    replies = ask_all(store)
    assert replies == EXPECTED
    assert store.read_bytes() == whole.read_bytes()
    assert {path: path.read_bytes() for path in before} == before


def test_what_shards_lack_is_asked(tmp_path: Path) -> None:
    store, names = tmp_path / "store.jsonl", [f"w{i}" for i in range(9)]
    options: dict[str, Any] = {"protocol": "p", "max_new_tokens": 3, "batch_size": 2}
    first = Counting()
    ask(words(*names), first, store, shard=(1, 3), **options)
    assert first.batches == [["w2", "w3"], ["w8"]]
    second = Counting()
    assert ask(words(*names), second, store, **options).answers == {name: name.upper() for name in names}
    assert second.batches == [["w0", "w1"], ["w4", "w5"], ["w6", "w7"]]
    other = Counting(name="other")
    with pytest.raises(UserError, match=r"another model, 'scripted: counting', not 'scripted: other'"):
        ask(words(*names), other, store, **options)
    store.unlink()
    with pytest.raises(UserError, match=r"store\.shard-2-of-3\.jsonl: its replies are of another model"):
        ask(words(*names), other, store, **options)


def test_replies_of_two_kinds_are_not_mixed(tmp_path: Path) -> None:
    store = tmp_path / "store.jsonl"
    asked: dict[str, Any] = {"protocol": "p", "max_new_tokens": 3, "batch_size": 2}
    ask(words("a", "b"), Counting(), store, **asked)
    before = store.read_bytes()
    for name, value in {"protocol": "q", "max_new_tokens": 4, "batch_size": 1}.items():
        with pytest.raises(UserError, match=rf"another {name}, .*, not {value!r}; name another out=FOLDER, or delete this file$"):
            ask(words("a", "b"), Counting(), store, **{**asked, name: value})
    model = Counting()
    model.settings = {"dtype": "bfloat16"}
    with pytest.raises(UserError, match=r"another settings, \{\}, not \{'dtype': 'bfloat16'\}"):
        ask(words("a", "b"), model, store, **asked)
    assert store.read_bytes() == before
    store.write_text("[1]\n")
    with pytest.raises(UserError, match=r"store\.jsonl:1: is \[1\], must be a JSON object"):
        ask(words("a", "b"), Counting(), store, **asked)


@pytest.mark.parametrize(
    "bad",
    ['{"key": "b"}', '{"answer": "B"}', '["b"]', '{"key": "b", "answer": 1}', '{"key": "b", "answer": "B", "failure": "x"}'],
)
def test_strange_lines_are_refused(bad: str, tmp_path: Path) -> None:
    store = tmp_path / "store.jsonl"
    ask(words("a"), Counting(), store, protocol="p", max_new_tokens=3)
    store.write_text(store.read_text() + bad + "\n")
    with pytest.raises(UserError, match=r"store\.jsonl:3: (not a reply; delete the line|is \['b'\], must be a JSON object)"):
        ask(words("a"), Counting(), store, protocol="p", max_new_tokens=3)


def test_replies_to_other_questions_stay(tmp_path: Path) -> None:
    """A few questions first, all of them later, or the other way round."""
    store, model = tmp_path / "store.jsonl", Counting()
    options: dict[str, Any] = {"protocol": "p", "max_new_tokens": 3}
    ask(words("a", "b", "c"), model, store, **options)
    assert ask(words("b"), model, store, **options) == Replies({"b": "B"})
    ask(words("a", "b", "c", "d"), model, store, **options)
    assert model.batches == [["a"], ["b"], ["c"], ["d"]]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = tmp_path / "store.jsonl"

    class Nested(Counting):
        def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
            with pytest.raises(UserError, match="another process writes to it"):
                ask(words("a"), Counting(), store, protocol="p", max_new_tokens=3)
            ask(words("a"), Counting(), store, protocol="p", max_new_tokens=3, shard=(0, 2))  # has its own
            return super().answer(batch, max_new_tokens)

    assert ask(words("a"), Nested(), store, protocol="p", max_new_tokens=3).answers == {"a": "A"}


def test_numbers_that_are_none_stop(tmp_path: Path) -> None:
    class Broken(Scripted):
        def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
            return [[float("nan"), 0.0] for _ in batch]

    broken = Broken(lambda parts: "", "broken")
    query = replace(words("a")[0], choices=(("yes",), ("no",)))
    with pytest.raises(UserError, match=r"scripted: broken: a: has \[nan, 0\.0\] as probabilities of 2 choices"):
        ask([query], broken, tmp_path / "store.jsonl", protocol="p")
    with pytest.raises(UserError, match="of 1 choices"):
        ask([replace(query, choices=(("yes",),))], broken, tmp_path / "store.jsonl", protocol="p")


def test_arguments_are_checked(tmp_path: Path) -> None:
    store, model = tmp_path / "store.jsonl", Counting()
    with pytest.raises(ValueError, match="two queries have one key"):
        ask(words("a", "a"), model, store, protocol="p", max_new_tokens=3)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        ask(words("a"), model, store, protocol="p")
    for options in ({"batch_size": 0}, {"shard": (2, 2)}, {"shard": (-1, 2)}):
        with pytest.raises(ValueError, match="must be >= 1, and an index below its count"):
            ask(words("a"), model, store, protocol="p", max_new_tokens=3, **options)  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)
    assert ask([], model, store, protocol="p") == Replies()


def test_batches_keep_the_two_kinds_apart() -> None:
    batches = make_batches(QUERIES, BATCH)
    assert sorted(query.key for batch in batches for query in batch) == sorted(query.key for query in QUERIES)
    for batch in batches:
        assert len({bool(query.choices) for query in batch}) == 1
        assert len(batch) <= BATCH
    assert shard_path(Path("x/mmmu.replies.jsonl"), (0, 8)) == Path("x/mmmu.replies.shard-1-of-8.jsonl")


def test_the_script_says_what_it_is_told() -> None:
    script = Scripted(reply, "numbers")
    assert script.revision == "scripted: numbers"
    parts = QUERIES[10].load()
    assert script.answer([parts], 1) == ["yes"]
    assert script.choice_probabilities([parts], [((" Yes", "true"), ("no",), ("YES",))]) == [[1.0, 0.0, 1.0]]
