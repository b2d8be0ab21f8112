"""DPG-Bench by the commands a user gives: fetch, sample, evaluate with a tiny model of random weights, report."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from evaluators.dpg import data
from rf_repro.cli import main
from rf_repro.commands.dpg import judge_name
from rf_repro.core.dpg_names import dpg_name, is_dpg
from rf_repro.core.files import read_json, read_jsonl, write_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.records import EvalResult
from tests.evaluators.dpg_world import csv_text, simple_rows, write_grids
from tests.evaluators.scripted import Scripted
from tests.tiny_run import STEP, tiny_changes, write_run

pytest.importorskip("transformers", reason="the extra `hub` is not installed")

from tests.evaluators.tiny_vlm import save_tiny_vlm
from tests.test_cli_sample import first_rows

ITEMS = ("partiprompts97", "256")
SIZE = 96


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dpg")


@pytest.fixture(scope="module")
def vlm(root: Path) -> Path:
    return save_tiny_vlm(root / "Tiny-VL")


@pytest.fixture(scope="module")
def questions(root: Path) -> Path:
    path = root / "dpg_bench.csv"
    path.write_text(csv_text(simple_rows(ITEMS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def grids(root: Path) -> Path:
    return write_grids(root / "grids", ITEMS)


def command(images: Path, model: str, out: Path, questions: Path, *rest: str) -> list[str]:
    return [
        "evaluate",
        "dpg",
        str(images),
        "--model",
        model,
        "--out",
        str(out),
        "--csv",
        str(questions),
        "--device",
        "cpu",
        *rest,
    ]


@pytest.fixture(scope="module")
def scored(grids: Path, vlm: Path, questions: Path, root: Path) -> Path:
    assert main(command(grids, str(vlm), root / "scored", questions, "--resolution", "6", "--batch-size", "3")) == 0
    return root / "scored"


def test_a_tiny_model_end_to_end(
    scored: Path, grids: Path, vlm: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, rows = read_json(scored / "dpg.json"), read_jsonl(scored / "dpg.items.jsonl")
    assert result["benchmark"] == "dpg(tiny-vl)"
    assert result["protocol"].startswith("custom-")
    assert result["protocol"].endswith(", 4 images a prompt at 6 px, DPG(Tiny-VL)")
    assert (result["n"], result["expected_n"], result["items"]) == (2, 2, "dpg.items.jsonl")
    replies = {row["key"]: row["probabilities"] for row in read_jsonl(scored / "dpg.replies.jsonl")[1:]}
    assert len(replies) == 2 * 4 * 3
    benchmark = data.load(questions)
    for row in rows:
        for image in row["images"]:
            keys = [f"{image['sha256']} {question.text}" for question in benchmark.items[row["item_id"]]]
            assert image["answers"] == [int(replies[key][0] > replies[key][1]) for key in keys]
            after = [int(all(image["answers"][: place + 1])) for place in range(3)]  # a chain: each needs all before it
            assert image["after_parents"] == after
    assert result["metrics"]["dpg"] == pytest.approx(sum(row["correct"] for row in rows) / 2)
    before = {path.name: path.read_bytes() for path in scored.iterdir()}
    capsys.readouterr()
    assert main(command(grids, str(vlm), scored, questions, "--batch-size", "3")) == 0
    assert {path.name: path.read_bytes() for path in scored.iterdir()} == before
    said = capsys.readouterr().out
    assert "DPG(Tiny-VL) is not comparable with published DPG numbers" in said
    assert "official leaves out 1 files, first partiprompts97.png: KeyError: 1" in said
    assert [line.split()[0] for line in said.splitlines()[:3]] == ["fixed", "DPG(Tiny-VL)", "attribute"]


def test_shards_and_calibration(
    scored: Path, grids: Path, vlm: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for share in ("2/2", "1/2"):
        assert main(command(grids, str(vlm), tmp_path, questions, "--batch-size", "3", "--shard", share)) == 0
        assert f"share {share} is in" in capsys.readouterr().out
    assert not (tmp_path / "dpg.json").exists()
    assert main(command(grids, str(vlm), tmp_path, questions, "--batch-size", "3", "--calibrate", str(scored))) == 0
    for name in ("dpg.json", "dpg.items.jsonl", "dpg.replies.jsonl"):
        assert (tmp_path / name).read_bytes() == (scored / name).read_bytes()
    said = capsys.readouterr().out
    assert "dpg(tiny-vl) against dpg(tiny-vl), on 2 files and 24 answers:\n  same answer 100.00%" in said


def test_mistakes_are_found_before_a_model_is_loaded(
    grids: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(images: Path, *rest: str) -> str:
        assert main(command(images, "/no/such/model", tmp_path / "out", questions, *rest)) == 2
        return capsys.readouterr().err

    broken = tmp_path / "broken"
    shutil.copytree(grids, broken)
    (broken / "256.png").unlink()
    assert "1 problem, first missing: 256: no file of this item" in refused(broken)
    assert (tmp_path / "out" / "dpg-problems.txt").read_text() == "missing: 256: no file of this item\n"
    assert "is 12x12, not 1024x1024, a grid of 2x2 images of 512 px" in refused(grids, "--resolution", "512")
    assert "--resolution 0: must be >= 1" in refused(grids, "--resolution", "0")
    assert "--compat official: a run's record needs every prompt" in refused(grids, "--compat", "official", "--run", "runs/x")
    assert "no such file; name another --csv" in refused(grids, "--csv", str(tmp_path / "none.csv"))
    assert "dpg.json: no such file" in refused(grids, "--calibrate", str(tmp_path))


def test_sampled_scored_and_reported(
    vlm: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's own images, by two judges: Table 1 prints mPLUG's score plainly and the other's under its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "BLOB", data.git_blob_hash(questions.read_bytes()))
    assert main(["data", "fetch", "dpg", "--from", str(questions)]) == 0
    changes = tiny_changes(tmp_path / "tokenizer")
    run = write_run(tmp_path / "runs", "pixel_rf-continued", changes)
    images = tmp_path / "images"
    sample = ["sample", str(run.path), "--prompts", "dpg", "--size", str(SIZE), "--out", str(images), "--device", "cpu"]
    assert main(sample) == 0
    assert [metadata["item_id"] for _, metadata in ImageFolder(images).prompts()] == list(ITEMS)
    own = ["evaluate", "dpg", str(images), "--device", "cpu", "--run", str(run.path)]
    grids = tmp_path / "grids"
    assert main([*own, "--model", str(vlm), "--out", str(tmp_path / "out"), "--grids", str(grids)]) == 0
    judged = f"dpg-{SIZE}-judge-tiny-vl"
    assert run.eval_names() == [judged]
    beside, record = read_json(tmp_path / "out" / "dpg.json"), run.eval_result(judged)
    assert record is not None
    assert (record.metrics, record.step, record.weights) == (beside["metrics"], STEP, "ema")
    assert record.protocol == f"dpg-bench, 4 images a prompt at {SIZE} px, DPG(Tiny-VL)"
    assert Image.open(grids / "256.png").size == (2 * SIZE, 2 * SIZE)

    # Grids of the same images, in a folder of their own, have the same answers: nothing is asked again.
    monkeypatch.setattr("rf_repro.commands.dpg.load_vlm", lambda options: _Silent(record))
    assert main(["evaluate", "dpg", str(grids), "--device", "cpu", "--model", str(vlm), "--out", str(tmp_path / "out")]) == 0
    assert read_json(tmp_path / "out" / "dpg.json")["metrics"] == record.metrics

    monkeypatch.setattr("evaluators.dpg.mplug.load", lambda weights, device: Scripted(lambda parts: "yes", "mplug"))
    assert main([*own, "--model", "mplug", "--out", str(tmp_path / "mplug")]) == 0
    assert run.eval_names() == [f"dpg-{SIZE}", judged]
    report = ["report", "--scale", "base", "--out", str(tmp_path / "report"),
              *(text for path, value in changes.items() for text in ("--set", f"{path}={json.dumps(value)}"))]  # fmt: skip
    assert main([*report, "--runs", str(tmp_path / "runs"), "--ship", str(tmp_path / "shipped")]) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    cell = first_rows(page, "Table 1 at scale base")["RF-Pixel"].split(" | ")[-2]
    score = record.metrics["dpg"]
    assert score is not None
    assert cell.startswith(f"1.00 [1.00, 1.00]; DPG(Tiny-VL) {score:.2f} [")
    assert "DPG(Tiny-VL) is not comparable with published DPG, which mPLUG scored." in page
    assert "1.0000 as the official script counts" in page
    assert main([*report, "--runs", str(tmp_path / "shipped")]) == 0
    again = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert first_rows(again, "Table 1 at scale base") == first_rows(page, "Table 1 at scale base")

    items = read_jsonl(run.evals / f"dpg-{SIZE}.items.jsonl")
    write_jsonl(run.evals / f"dpg-{SIZE}.items.jsonl", [{**items[0], "correct": 0.5}, items[1]])
    capsys.readouterr()
    assert main([*report, "--runs", str(tmp_path / "runs")]) == 2
    assert "dpg is 0.75 over the items, but the record says 1.0" in capsys.readouterr().err
    (images / "00000" / "samples" / "0000.png").write_bytes((images / "00000" / "samples" / "0001.png").read_bytes())
    assert main([*own, "--model", "mplug", "--out", str(tmp_path / "mplug")]) == 2
    assert "is not the image that the run made" in capsys.readouterr().err


class _Silent(Scripted):
    """Has the identity of the model behind a record, and nothing to say."""

    def __init__(self, record: EvalResult) -> None:
        super().__init__(lambda parts: pytest.fail("asked again"))
        self.revision, self.settings = record.evaluator["judge_revision"], json.loads(record.evaluator["judge_settings"])


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL-8B-Instruct"),
        ("openai:Qwen/Qwen3-VL-8B@http://node:8000/v1", "Qwen3-VL-8B"),
        ("openai:judge@home@http://node:8000/v1", "judge@home"),
        ("/models/some.vlm/", "some.vlm"),
    ],
)
def test_names_of_judges(spec: str, name: str) -> None:
    assert judge_name(spec) == name


def test_names_of_records() -> None:
    names = [
        dpg_name(1024, 1024, None),
        dpg_name(768, 1024, None),
        dpg_name(512, 512, "Qwen/Qwen3-VL 8B!"),
        dpg_name(8, 8, "裁判"),
    ]
    assert names == ["dpg-1024", "dpg-768x1024", "dpg-512-judge-qwen-qwen3-vl-8b", "dpg-8-judge-unnamed"]
    assert all(map(is_dpg, names))
    assert not any(map(is_dpg, ("dpg", "geneval-1024", "dpg-judge-x", "dpg-1024-other")))


def test_a_run_of_another_kind_is_refused(
    grids: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "pixel_rf-continued", tiny_changes(tmp_path / "tokenizer"))
    assert judge_name(str(run.path)) == f"pixel_rf-continued/{run.path.name}"
    assert main(command(grids, "any", tmp_path / "out", questions, "--run", str(run.path))) == 2
    assert "has no origin.json; --run takes images that `rf-repro sample` made" in capsys.readouterr().err
