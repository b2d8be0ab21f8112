"""Each benchmark from its files to its score: a perfect and a wrong answerer, killed and resumed, in shares, damaged."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators import understanding
from evaluators.understanding import BenchmarkEvaluation, Options
from evaluators.understanding.benchmark import Benchmark
from evaluators.understanding.benchmarks import BENCHMARKS, PAPER
from evaluators.understanding.data import load_questions
from evaluators.understanding.run import Asked, metrics_of
from evaluators.vlm.protocol import Parts
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.records import EvalResult
from tests.evaluators.scripted import Scripted
from tests.evaluators.understanding_files import MINIS, Mini, write_arrow, write_parquet, write_tsv

WRITERS = {".parquet": write_parquet, ".arrow": write_arrow, ".tsv": write_tsv}
FORMATS = [(name, suffix) for name in MINIS for suffix in (".parquet", ".tsv")] + [("mmmu", ".arrow"), ("docvqa", ".arrow")]


def small(name: str) -> Benchmark:
    """A benchmark that is as large as its miniature."""
    return replace(BENCHMARKS[name], expected=len(MINIS[name].replies))


def protocol_for(name: str, suffix: str) -> str:
    return "vlmevalkit" if suffix == ".tsv" else "lmms-eval"


def options_for(data: Path, out: Path, script: Scripted, protocol: str) -> Options:
    return Options(model=script, data=str(data), out=out, protocol=protocol, batch_size=2)


def evaluate(benchmark: Benchmark, data: Path, out: Path, script: Scripted, protocol: str) -> BenchmarkEvaluation:
    asked = Asked(benchmark, load_questions(benchmark, str(data)))
    return understanding.evaluate(asked, options_for(data, out, script, protocol))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in (".json", ".jsonl") and "shard" not in path.name
    }


@pytest.mark.parametrize(("name", "suffix"), FORMATS)
def test_known_answerers_have_known_scores(name: str, suffix: str, tmp_path: Path) -> None:
    mini, benchmark = MINIS[name], small(name)
    data, metrics = WRITERS[suffix](tmp_path / f"{name}{suffix}", mini), metrics_of(small(name))
    first = next(iter(mini.replies))
    for label, right, expected in (
        ("perfect", lambda part: True, 1.0),
        ("wrong", lambda part: False, 0.0),
        ("first", lambda part: part == first, 1 / len(mini.replies)),
    ):
        script = Scripted(mini.answerer(right), label)
        result = evaluate(benchmark, data, tmp_path / label, script, protocol_for(name, suffix))
        assert result.metrics["paper"] == pytest.approx(expected), label
        assert result.metrics[metrics.PAPER_METRIC] == result.metrics["paper"]
        assert (result.n, result.expected_n, result.failures, result.unread) == (len(mini.replies), len(mini.replies), 0, ())
        assert all(value is None or 0 <= value <= 1 for value in result.metrics.values())
        assert {metric for metric, value in result.metrics.items() if value is None} == set(result.missing)
        rows = read_jsonl(tmp_path / label / f"{name}.items.jsonl")
        assert sum(row["correct"] for row in rows) / len(rows) == pytest.approx(expected)
        assert all(set(row["scores"]) == set(row["parsed"]) == set(metrics.VARIANTS) for row in rows)
        written = EvalResult.from_dict(read_json(tmp_path / label / f"{name}.json"))
        assert written.to_dict() == result.to_dict()


def test_every_variant_of_a_metric_is_told_apart(tmp_path: Path) -> None:
    """`The answer is yes` is nothing to lmms-eval's MME, which reads four characters, and a yes to VLMEvalKit's."""
    data = write_parquet(tmp_path / "mme.parquet", MINIS["mme"])
    outcome = evaluate(small("mme"), data, tmp_path / "out", Scripted(lambda parts: "The answer is yes"), "lmms-eval")
    metrics = outcome.metrics
    assert (metrics["lmms-eval/question_accuracy"], metrics["vlmevalkit/question_accuracy"]) == (0.0, 0.5)
    assert (metrics["parse_failure_rate/lmms-eval"], metrics["parse_failure_rate/vlmevalkit"]) == (1.0, 0.0)
    assert metrics["vlmevalkit/accuracy_plus"] == 0.0
    assert "inferred" in outcome.evaluator["paper"]


def test_a_fraction_is_a_score(tmp_path: Path) -> None:
    """ANLS: one letter of ten wrong is 0.9; more than half wrong is nothing."""
    mini = MINIS["docvqa"]
    script = Scripted(lambda parts: "Washingtan" if "Who 0" in str(parts[-1]) else "x", "close")
    outcome = evaluate(small("docvqa"), write_parquet(tmp_path / "d.parquet", mini), tmp_path / "out", script, "lmms-eval")
    assert outcome.metrics["paper"] == pytest.approx(0.9 / 3)
    assert [row["correct"] for row in outcome.rows] == pytest.approx([0.9, 0, 0])
    assert [row["cluster"] for row in outcome.rows] == ["abc/0", "abc/0", "abc/1"]  # two questions about one page


def test_fewer_questions_are_never_the_benchmark(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "mmmu.parquet", MINIS["mmmu"])
    script = Scripted(MINIS["mmmu"].answerer())
    outcome = evaluate(BENCHMARKS["mmmu"], data, tmp_path / "out", script, "lmms-eval")
    assert (outcome.n, outcome.expected_n) == (4, 900)
    assert outcome.metrics["paper"] is None
    assert outcome.metrics["official/accuracy"] == 1.0
    assert outcome.missing["paper"] == "incomplete: the data have 4 questions, the benchmark has 900"
    questions = load_questions(small("mmmu"), str(data), limit=3)
    trial = understanding.evaluate(Asked(small("mmmu"), questions), Options(model=script))
    assert trial.missing["paper"] == "incomplete: only the first 3 questions of 4 were asked"


def test_a_damaged_image_is_a_failure_and_not_a_wrong_answer(tmp_path: Path) -> None:
    mini = MINIS["chartqa"]
    rows = [dict(row) for row in mini.columns]
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:60], "path": None}
    rows[2]["image"] = {"bytes": b"BM" + bytes(80), "path": None}  # a format that is not read
    data = write_parquet(tmp_path / "chartqa.parquet", replace(mini, columns=rows))
    script = Scripted(mini.answerer())
    outcome = evaluate(small("chartqa"), data, tmp_path / "out", script, "lmms-eval")
    assert (outcome.n, outcome.failures) == (2, 2)
    assert outcome.metrics["lmms-eval/relaxed_overall"] == 1.0
    assert outcome.metrics["paper"] is None
    assert "2 of 4 questions have no score, 1: cannot be loaded" in outcome.missing["paper"]
    assert [row["correct"] for row in outcome.rows] == [1.0, None, None, 1.0]
    assert "not JPEG, PNG, WebP or GIF" in outcome.rows[2]["failure"]
    write_parquet(data, mini)  # downloaded again: what failed is asked again, and all is as if it had never failed
    mended = evaluate(small("chartqa"), data, tmp_path / "out", script, "lmms-eval")
    assert mended.metrics["paper"] == 1.0
    evaluate(small("chartqa"), data, tmp_path / "whole", script, "lmms-eval")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_shares_together_are_the_whole_to_the_byte(tmp_path: Path) -> None:
    mini = MINIS["mme"]
    data = write_tsv(tmp_path / "MME.tsv", mini)
    asked: list[Parts] = []

    def reply(parts: Parts) -> str:
        asked.append(parts)
        return mini.answerer(lambda part: "3" not in part)(parts)

    evaluate(small("mme"), data, tmp_path / "one", Scripted(reply), "vlmevalkit")
    whole = len(asked)
    for share in ((1, 2), (0, 2)):
        asked_of = Asked(small("mme"), load_questions(small("mme"), str(data)))
        options = options_for(data, tmp_path / "two", Scripted(reply), "vlmevalkit")
        assert understanding.evaluate_share(asked_of, options, share) == 0  # failures
        assert not (tmp_path / "two" / "mme.json").exists()
    assert len(asked) == 2 * whole
    evaluate(small("mme"), data, tmp_path / "two", Scripted(reply), "vlmevalkit")
    assert len(asked) == 2 * whole  # nothing was asked again
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.evaluators.scripted import Scripted
from tests.evaluators.test_understanding_run import evaluate, small
from tests.evaluators.understanding_files import MINIS

asked, last = 0, int(sys.argv[3])
def reply(parts):
    global asked
    asked += 1
    if asked == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return MINIS["mmmu"].answerer(lambda part: part != "Third?")(parts)

evaluate(small("mmmu"), Path(sys.argv[1]), Path(sys.argv[2]), Scripted(reply), "lmms-eval")
"""


def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "mmmu.parquet", MINIS["mmmu"])
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(data)]
    killed = subprocess.run([*command, str(tmp_path / "killed"), "3"], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_jsonl(tmp_path / "killed" / "mmmu.replies.jsonl")) == 3  # who was asked, and the first batch
    script = Scripted(MINIS["mmmu"].answerer(lambda part: part != "Third?"))
    for folder in ("killed", "undisturbed"):
        evaluate(small("mmmu"), data, tmp_path / folder, script, "lmms-eval")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")
    assert set(files_of(tmp_path / "killed")) == {"mmmu.replies.jsonl", "mmmu.items.jsonl", "mmmu.json"}


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "chartqa.tsv", MINIS["chartqa"])
    with open(data, "a", encoding="utf-8") as file:
        file.write("cut\n")
    asked = Asked(small("chartqa"), load_questions(small("chartqa"), str(data)))
    lines: list[str] = []
    options = options_for(data, tmp_path / "out", Scripted(lambda parts: "3"), "vlmevalkit")
    result = understanding.evaluate(asked, options, tell=lines.append)
    assert len(result.unread) == 1
    assert lines == ["ChartQA, test: 1 problems with the data", f"  {result.unread[0]}"]
    understanding.evaluate_share(asked, options, (0, 2), tell=lines.append)
    assert lines[2:] == lines[:2]


def test_another_protocol_or_model_needs_another_folder(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "mmmu.parquet", MINIS["mmmu"])
    evaluate(small("mmmu"), data, tmp_path / "out", Scripted(MINIS["mmmu"].answerer()), "lmms-eval")
    for script, protocol in ((Scripted(MINIS["mmmu"].answerer()), "bagel"), (Scripted(lambda parts: "A", "other"), "lmms-eval")):
        with pytest.raises(UserError, match="name another out=FOLDER, or"):
            evaluate(small("mmmu"), data, tmp_path / "out", script, protocol)


def test_prompts_that_the_data_do_not_hold_are_refused(tmp_path: Path) -> None:
    for name, suffix, protocol in (("blink", ".tsv", "lmms-eval"), ("realworldqa", ".parquet", "vlmevalkit")):
        data = WRITERS[suffix](tmp_path / f"{name}{suffix}", MINIS[name])
        with pytest.raises(UserError, match=f"protocol={protocol!r}: asks {name} from"):
            evaluate(small(name), data, tmp_path / "out", Scripted(lambda parts: ""), protocol)
    with pytest.raises(UserError, match="protocol='bagel': not for chartqa; choose lmms-eval or vlmevalkit"):
        evaluate(small("chartqa"), write_tsv(tmp_path / "c.tsv", MINIS["chartqa"]), tmp_path, Scripted(str), "bagel")


def test_the_papers_columns_are_these() -> None:
    from ablations.questions import BENCHMARKS as COLUMNS
    from ablations.questions import NAMES

    assert tuple(benchmark.name for benchmark in PAPER) == NAMES
    assert [benchmark.column for benchmark in PAPER] == list(COLUMNS)
    assert [column.tasks for column in COLUMNS.values()] == [(name,) for name in NAMES]


def test_a_miniature_has_one_part_a_question() -> None:
    for name, mini in MINIS.items():
        assert isinstance(mini, Mini)
        for part in mini.replies:
            assert sum(part in row["question"] for row in mini.columns) == 1, (name, part)
