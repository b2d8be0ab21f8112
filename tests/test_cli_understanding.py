"""`rf-repro evaluate understanding` from files to the report's Tables 2 and 3e, with tiny random models."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.understanding import benchmarks
from reports.build import build_report
from reports.ship import ship_results
from rf_repro.cli import main
from rf_repro.commands import understanding
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.run_dir import RunDir
from tests.evaluators.scripted import Scripted
from tests.evaluators.understanding_files import MINIS, write_parquet, write_tsv
from tests.tiny_run import tiny_changes, write_run

Evaluate = Callable[..., int]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("understanding")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    """A folder for three benchmarks, a TSV for one, each in its own way."""
    write_parquet(root / "data" / "mmmu" / "validation-00000-of-00001.parquet", MINIS["mmmu"])
    write_parquet(root / "data" / "chartqa" / "data" / "test-00000-of-00001.parquet", MINIS["chartqa"])
    write_parquet(root / "data" / "docvqa.parquet", MINIS["docvqa"])
    write_tsv(root / "data" / "MME.tsv", MINIS["mme"])
    return root / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks as large as their miniatures, but MME, whose data then are incomplete."""
    for name in ("mmmu", "chartqa", "docvqa"):
        benchmark = replace(benchmarks.BENCHMARKS[name], expected=len(MINIS[name].replies))
        monkeypatch.setitem(benchmarks.BENCHMARKS, name, benchmark)


@pytest.fixture
def evaluate(data: Path) -> Evaluate:
    def run(names: str, model: Path | str, out: Path, *rest: str) -> int:
        command = [
            "evaluate",
            "understanding",
            "--benchmarks",
            names,
            "--model",
            str(model),
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        return main([*command, *(() if "--data" in rest else ("--data", str(data))), *rest])

    return run


def test_a_tiny_transformers_model_end_to_end(
    root: Path, evaluate: Evaluate, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="the extra `vlm` is not installed")
    from tests.evaluators.tiny_vlm import save_tiny_vlm

    model, out = save_tiny_vlm(root / "vlm"), root / "tiny"
    command = ("mmmu,chartqa", model, out, "--max-new-tokens", "4")
    assert evaluate(*command) == 0
    said = capsys.readouterr().out
    assert "MMMU, validation: 4 of 4 questions scored; protocol mmmu, lmms-eval prompts v1, up to 4 tokens, questions " in said
    for variant in ("official", "lmms-eval", "lmms-eval-0.7.2-seeded", "vlmevalkit", "bagel"):
        assert re.search(rf"^  {variant} +accuracy 0\.\d{{4}}, parse failure rate [01]\.\d{{4}}", said, re.MULTILINE), variant
    assert "relaxed human 0." in said
    assert "chartqa                     4 of 4  0." in said.split("for the paper's column")[1]
    rows = read_jsonl(out / "mmmu.items.jsonl")
    assert all(isinstance(row["reply"], str) and row["failure"] is None for row in rows)
    assert read_jsonl(out / "mmmu.replies.jsonl")[0]["max_new_tokens"] == 4
    before = {path.name: path.read_bytes() for path in out.glob("*.json*")}
    assert evaluate(*command) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.json*")} == before


def test_shares_and_trials(
    tmp_path: Path, evaluate: Evaluate, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(understanding, "load_vlm", lambda options: Scripted(MINIS["mmmu"].answerer()))
    assert evaluate("mmmu", "any", tmp_path / "shares", "--shard", "2/2") == 0
    assert "mmmu: share 2 of 2 is in" in capsys.readouterr().out
    assert evaluate("mmmu", "any", tmp_path / "shares", "--shard", "1/2") == 0
    assert not (tmp_path / "shares" / "mmmu.json").exists()
    assert evaluate("mmmu", "any", tmp_path / "shares") == 0
    assert evaluate("mmmu", "any", tmp_path / "whole") == 0
    for name in ("mmmu.json", "mmmu.items.jsonl", "mmmu.replies.jsonl"):
        assert (tmp_path / "shares" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capsys.readouterr()
    assert evaluate("mmmu", "any", tmp_path / "trial", "--limit", "2") == 0
    said = capsys.readouterr().out
    assert "INCOMPLETE: 2 of 4 questions scored" in said
    assert "  paper                   incomplete: only the first 2 questions of 4 were asked" in said
    assert read_json(tmp_path / "trial" / "mmmu.json")["metrics"]["paper"] is None


def test_runs_are_asked_and_the_report_reads_them(
    root: Path,
    tmp_path: Path,
    evaluate: Evaluate,
    small: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run answers by itself, greedily and at random; of another the answers are invented, so that its scores are known."""
    changes = tiny_changes(root / "tokenizer")
    runs = {key: write_run(tmp_path / "runs", key, changes) for key in ("pixel", "pixel_rf")}
    itself = runs["pixel"].path
    assert evaluate("mmmu,docvqa", itself, tmp_path / "pixel", "--run", str(itself), "--max-new-tokens", "3") == 0
    assert "recorded in the run: " in capsys.readouterr().out
    own = runs["pixel"].eval_result("understanding-mmmu")
    assert own is not None
    assert (own.step, own.weights, own.n, own.items) == (3, "ema", 4, "understanding-mmmu.items.jsonl")

    def invent(name: str, right: Callable[[str], bool], protocol: str = "lmms-eval") -> None:
        path = runs["pixel_rf"].path
        monkeypatch.setattr(understanding, "load_vlm", lambda options: Scripted(MINIS[name].answerer(right)))
        options = ("--run", str(path), "--max-new-tokens", "3", "--protocol", protocol)
        assert evaluate(name, path, tmp_path / "pixel_rf", *options) == 0

    invent("mmmu", lambda part: part != "First?")
    invent("docvqa", lambda part: part != "Who 2?")
    invent("mme", lambda part: True, "vlmevalkit")
    page = build_report([tmp_path / "runs"], tmp_path / "out", "base", changes).with_suffix(".md").read_text(encoding="utf-8")
    page = page.replace("\\", "")  # before what Markdown would take for its own
    table = page[page.index("### Table 2 at scale base") :]
    head, ours = (
        next(line for line in table.splitlines() if line.startswith(start)) for start in ("| Variant |", "| Pixel+RF |")
    )
    assert head.startswith("| Variant | MMMU | Paper, MMMU | HalluBench | Paper, HalluBench | MME* | Paper, MME* | BLINK |")
    cells = dict(zip(head.strip("| ").split(" | "), ours.strip("| ").split(" | "), strict=True))
    assert cells["MMMU"].startswith("0.75 [")
    assert cells["DocVQA"].startswith("0.67 [")
    assert (cells["Paper, MMMU"], cells["Paper, DocVQA"], cells["Questions"]) == ("0.542", "0.880", "7")
    assert "incomplete: the data have 4 questions, the benchmark has 2,374" in cells["MME*"]
    assert cells["BLINK"] == "not run: seed 0 not asked (`rf-repro evaluate understanding --run`)"
    assert "Measured: mmmu, lmms-eval prompts v1, up to 3 tokens, questions" in table
    assert "official/accuracy for MMMU: inferred, accuracy on the validation split" in table
    assert "those about one image or page together" in page
    assert "### The paper's Table 2" not in page  # its numbers stand beside ours
    assert "Table 3e: VLM-only with a contrastive and with a self-supervised encoder" in page
    assert "Left out." not in page
    alone = {path: value for path, value in changes.items() if "contrastive" not in path}  # no SigLIP2 to set beside it
    page = build_report([tmp_path / "runs"], tmp_path / "alone", "base", alone).with_suffix(".md").read_text(encoding="utf-8")
    assert "Left out. model.encoder: has 2 layers of width 24: Table 3e has no SigLIP2 of that size class" in page
    claims = {claim["id"]: claim for claim in read_json(tmp_path / "out" / "claims.json")}
    assert claims["dino_beats_siglip"]["verdict"] == "not run"
    assert "Not run: Table 3e is left out at this scale; its section says why." in page
    assert claims["rf_improves_pixel_understanding"]["verdict"] == "not run"  # two of its eight columns are there
    ship_results([tmp_path / "runs"], tmp_path / "shipped", "base", changes)
    again = (
        build_report([tmp_path / "shipped"], tmp_path / "again", "base", changes).with_suffix(".md").read_text(encoding="utf-8")
    )
    assert ours in again.replace("\\", "")


def test_a_result_is_recorded_in_its_own_run_alone(
    root: Path, tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "pixel", tiny_changes(root / "tokenizer"))
    other = RunDir(tmp_path / "nothing")
    for model, of, rest, reason in (
        ("some/model", run, (), "--model names another model"),
        (str(other.path), other, (), "is not a run directory"),
        (str(run.path), run, ("--limit", "2"), "is a trial"),
    ):
        assert evaluate("mmmu", model, tmp_path / "out", "--run", str(of.path), *rest) == 2
        assert reason in capsys.readouterr().err
    run.write_record(replace(run.record(), steps=2))
    assert evaluate("mmmu", str(run.path), tmp_path / "out", "--run", str(run.path)) == 2
    assert "is at step 2 of 3" in capsys.readouterr().err
    assert not run.eval_names()


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (("--protocol", "bagel"), "--protocol bagel: not for chartqa; choose lmms-eval or vlmevalkit"),
        (("--shard", "3/2"), "--shard '3/2': must be I/N"),
        (("--limit", "0"), "--limit 0: must be >= 1"),
        (("--data", "/nowhere"), "--data /nowhere: no such folder or file"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    rest: tuple[str, ...], reason: str, tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("chartqa", "no/such-model", tmp_path / "out", *rest) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "understanding", "--help"])
    said = capsys.readouterr().out
    assert "example: rf-repro evaluate understanding --benchmarks mmmu,mme --model Qwen/Qwen3-VL-8B-Instruct --data hub" in said
    assert said.count("rf-repro evaluate understanding --benchmarks") == 3
