"""`rf-repro evaluate geneval2` and `geneval-vlm` from files to records, with a tiny random model and with judges whose scores
are known."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluators.geneval2.spellings import accepted
from rf_repro.cli import main
from rf_repro.commands import geneval2
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from tests.evaluators.chat_server import chat_server
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, write_folder
from tests.evaluators.geneval2_files import make_rows, perfect, write_images, write_rows
from tests.evaluators.scripted import Scripted
from tests.killing import kill_at

ROOT = Path(__file__).resolve().parents[1]
NUM = 6  # prompts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("geneval2")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    from tests.evaluators.tiny_vlm import save_tiny_vlm

    return save_tiny_vlm(root / "tiny-judge")


@pytest.fixture(scope="module")
def images(root: Path) -> Path:
    """The JSON file of images; `data.jsonl` lies beside it."""
    file = write_images(root / "files", make_rows(NUM))
    write_rows(file.with_name("data.jsonl"), make_rows(NUM))
    return file


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scripted], None]:
    """Makes a scripted judge what `--model` loads."""
    return lambda scripted: monkeypatch.setattr(geneval2, "load_vlm", lambda options: scripted)


def on_prompts(images: Path, out: Path, *rest: str, model: str = "scripted") -> list[str]:
    data = str(images.with_name("data.jsonl"))
    return ["evaluate", "geneval2", str(images), "--data", data, "--model", model, "--out", str(out), "--device", "cpu", *rest]


def test_a_tiny_model_judges_every_question(
    images: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evaluators.vlm.transformers_model import load_transformers_vlm

    assert main(on_prompts(images, tmp_path, model=str(model))) == 0
    record, rows = read_json(tmp_path / "geneval2.json"), read_jsonl(tmp_path / "geneval2.items.jsonl")
    import torch

    vlm = load_transformers_vlm(str(model), torch.device("cpu"))
    means = []
    for index, row in enumerate(make_rows(NUM)):
        image = Image.open(images.parent / "drawn" / f"{index}.png").convert("RGB")
        parts = [(image, f"{question} Answer in one word.") for question, _ in row["vqa_list"]]
        found = vlm.choice_probabilities(parts, [[accepted(answer)] for _, answer in row["vqa_list"]])
        means.append(sum(value for (value,) in found) / len(found))
        assert [question["score"] for question in rows[index]["questions"]] == pytest.approx([v for (v,) in found], rel=1e-4)
    assert record["metrics"]["soft_tifa_am"] == pytest.approx(sum(means) / NUM, rel=1e-4)
    assert len(set(means)) == NUM
    assert record["evaluator"]["judge"] == "tiny-judge"
    assert record["evaluator"]["judge_revision"] == vlm.revision
    assert (record["n"], record["expected_n"], record["items"]) == (NUM, NUM, "geneval2.items.jsonl")
    lists = read_json(tmp_path / "geneval2-score-lists.json")
    assert lists == [[question["score"] for question in row["questions"]] for row in rows]
    printed = capsys.readouterr().out
    assert f"soft_tifa_gm            {record['metrics']['soft_tifa_gm']:.4f}  [" in printed
    assert "GenEval 2, judged by tiny-judge (files " in printed


def test_a_judge_on_another_machine_tells_its_likeliest_tokens(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {" Yes": 0.5, "Yes": 0.25, "4": 0.1, "four": 0.05, "no": 0.05}
    top = [{"token": token, "logprob": math.log(value)} for token, value in tokens.items()]
    reply = {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}]}
    monkeypatch.delenv("RF_REPRO_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with chat_server(lambda handler, _: handler.reply(reply)) as server:
        assert main(on_prompts(images, tmp_path, model=f"openai:judge@{server.url}")) == 0
        asked = [part["text"] for body in server.bodies for part in body["messages"][-1]["content"] if part["type"] == "text"]
    questions = [question for row in make_rows(NUM) for question, _ in row["vqa_list"]]
    assert sorted(asked) == sorted(f"{question} Answer in one word." for question in questions)
    known = {"Yes": 0.75, "four": 0.15}
    means = [sum(known.get(answer, 0.0) for _, answer in row["vqa_list"]) / len(row["vqa_list"]) for row in make_rows(NUM)]
    record = read_json(tmp_path / "geneval2.json")
    assert record["metrics"]["soft_tifa_am"] == pytest.approx(sum(means) / NUM, abs=1e-12)
    assert record["evaluator"]["judge"] == "judge"


def test_geneval_s_prompts_judged_by_a_tiny_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "images", [[RED_COW_BLUE_DOG, TWO_COWS]] * len(PROMPTS))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    command = ["evaluate", "geneval-vlm", str(folder), "--prompts", str(tmp_path / "prompts.jsonl"), "--images-per-prompt", "2",
               "--model", str(model), "--out", str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    assert main(command) == 0
    record = read_json(tmp_path / "out" / "geneval-vlm.json")
    assert (record["benchmark"], record["n"], record["expected_n"]) == ("geneval-vlm", 12, 12)
    assert record["protocol"].startswith("geneval-vlm-v1-")
    assert " custom-" in record["protocol"]
    rows = read_jsonl(tmp_path / "out" / "geneval-vlm.items.jsonl")
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(prompt, sample) for prompt in range(6) for sample in (0, 1)]
    tasks = {row["tag"] for row in rows}
    means = [sum(row["soft_tifa_am"] for row in rows if row["tag"] == task) / 2 for task in tasks]
    assert record["metrics"]["overall_am"] == pytest.approx(sum(means) / 6, abs=1e-15)
    assert 0 < record["metrics"]["overall_gm"] < record["metrics"]["overall_am"] < 1
    printed = capsys.readouterr().out
    assert "geneval-vlm(tiny-judge), judged by tiny-judge" in printed
    assert "GenEval " not in printed
    (folder / "00003" / "samples" / "0001.png").unlink()
    assert main(command) == 2
    assert "11 of 12 images can be scored; complete them, or give --partial" in capsys.readouterr().err
    assert main([*command, "--partial"]) == 0
    assert "PARTIAL: 11 of 12 images scored" in capsys.readouterr().out


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def judge_perfectly(command: list[str]) -> None:
    """In a process of its own."""
    geneval2.load_vlm = lambda options: perfect(make_rows(NUM))  # type: ignore[assignment]
    main(command)


def test_killed_and_resumed_it_ends_with_the_same_bytes(images: Path, tmp_path: Path, judge: Callable[[Scripted], None]) -> None:
    judge(perfect(make_rows(NUM)))
    assert main(on_prompts(images, tmp_path / "whole")) == 0
    asked = len(read_jsonl(tmp_path / "whole" / "geneval2.replies.jsonl"))
    command = on_prompts(images, tmp_path / "killed")
    store = tmp_path / "killed" / "geneval2.replies.jsonl"
    kill_at(str(store), 7, judge_perfectly, command)
    assert 5 < store.read_bytes().count(b"\n") < asked
    assert not (tmp_path / "killed" / "geneval2.json").exists()
    assert main(command) == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert read_json(tmp_path / "killed" / "geneval2.json")["metrics"]["soft_tifa_gm"] == 1.0


def test_shares_end_with_the_same_bytes(
    images: Path, tmp_path: Path, judge: Callable[[Scripted], None], capsys: pytest.CaptureFixture[str]
) -> None:
    judge(perfect(make_rows(NUM)))
    assert main(on_prompts(images, tmp_path / "whole", "--batch-size", "4")) == 0
    for share in ("2/2", "1/2"):
        assert main(on_prompts(images, tmp_path / "shared", "--batch-size", "4", "--shard", share)) == 0
        assert f"share {share} is in {tmp_path / 'shared'}" in capsys.readouterr().out
        assert not (tmp_path / "shared" / "geneval2.json").exists()
    judge(Scripted(perfect(make_rows(NUM))._reply, "another"))
    assert main(on_prompts(images, tmp_path / "shared", "--batch-size", "4")) == 2
    assert "its replies are of another model, 'scripted: perfect', not 'scripted: another'" in capsys.readouterr().err
    judge(perfect(make_rows(NUM)))
    assert main(on_prompts(images, tmp_path / "shared", "--batch-size", "4")) == 0
    shared = {name: data for name, data in files_of(tmp_path / "shared").items() if ".shard-" not in name}
    assert shared == files_of(tmp_path / "whole")


def test_fetching_under_the_official_name_wants_the_official_bytes(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "fetch", "geneval2", "--from", str(images.with_name("data.jsonl")), "--out", str(tmp_path / "kept")]
    assert main(command) == 2
    assert "not the prompt set 'geneval2': its SHA-256 begins" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    assert main([*command, "--set", "official"]) == 2
    assert "--set official: is a set of geneval's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json: no such file; name a folder of images, or a JSON"),
        (["images.json", "--data", "nowhere"], "nowhere: no such file"),
        (["images.json", "--shard", "3/2"], "--shard '3/2': must be I/N"),
        (["images.json", "--batch-size", "0"], "--batch-size 0: must be >= 1"),
        (["images.json", "--run", "nowhere"], "--run nowhere: is not a run directory"),
        (["images.json", "--out", "images.json/below"], "images.json is a file; name a folder"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images.parent)
    command = ["evaluate", "geneval2", arguments[0], "--data", "data.jsonl", "--model", "nobody/nothing", "--out", "out"]
    assert main([*command, *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def changes(root: Path) -> dict[str, object]:
    from tests.tiny_run import tiny_changes

    return tiny_changes(root / "tokenizer")


@pytest.fixture(scope="module")
def run(root: Path, changes: dict[str, object]) -> RunDir:
    from tests.tiny_run import write_run

    return write_run(root / "runs", "pixel_rf-continued", changes)


def test_images_of_a_run_are_judged_recorded_and_reported(
    run: RunDir, changes: dict[str, object], images: Path, tmp_path: Path, judge: Callable[[Scripted], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whoever says yes to everything is right but for the counts, and knows nothing of verdicts."""
    judge(Scripted(lambda parts: "Yes", "yes"))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    results: dict[str, dict[str, Any]] = {}
    for name, prompts, rest in (
        ("geneval2", images.with_name("data.jsonl"), ["--data", str(images.with_name("data.jsonl"))]),
        ("geneval-vlm", tmp_path / "prompts.jsonl", ["--images-per-prompt", "1"]),
    ):
        folder = tmp_path / f"images-{name}"
        sample = ["sample", str(run.path), "--prompts", str(prompts), "--num", "1", "--out", str(folder), "--device", "cpu"]
        assert main(sample) == 0
        partial = ["--partial"] if name == "geneval-vlm" else []  # of GenEval's 553
        command = ["evaluate", name, str(folder), *rest, "--model", "org/judge", "--out", str(tmp_path / name), "--run",
                   str(run.path), "--device", "cpu", *partial]  # fmt: skip
        assert main(command) == 0
        again = [str(tmp_path / f"{name}-again") if text == str(tmp_path / name) else text for text in command]
        assert main([*again, "--batch-size", "2"]) == 0  # replaces the record: the same judge by the same protocol
        assert "recorded in the run: " in capsys.readouterr().out
        results[name] = read_json(tmp_path / name / f"{name}.json")
    names = run.eval_names()
    assert [name.rpartition("-")[0] for name in names] == ["geneval-vlm", "geneval2"]
    for name in names:
        result = run.eval_result(name)
        assert result is not None
        assert result.metrics == results[result.benchmark]["metrics"]
        assert result.protocol == f"{results[result.benchmark]['protocol']}, 96x96 px"
        assert len(run.eval_items(name)) == NUM
    asked = [question for row in make_rows(NUM) for question in zip(row["skills"], row["vqa_list"], strict=True)]
    assert results["geneval2"]["metrics"]["skill_count"] == 0.0
    assert results["geneval2"]["metrics"]["skill_object"] == 1.0
    assert results["geneval2"]["metrics"]["soft_tifa_gm"] == 0.0  # every prompt counts something
    assert all(skill != "count" or answer != "Yes" for skill, (_, answer) in asked)

    options = [text for path, value in changes.items() for text in ("--set", f"{path}={json.dumps(value)}")]
    report = ["report", "--runs", str(run.path.parents[2]), "--scale", "base", "--out", str(tmp_path / "report"), *options]
    assert main(report) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| RF-Pixel (Table 1) | 0 | GenEval 2, org/judge")]
    metrics = results["geneval2"]["metrics"]
    assert f"{metrics['soft_tifa_am']:.3f} [{metrics['soft_tifa_am_low']:.3f}, {metrics['soft_tifa_am_high']:.3f}]" in line
    (line,) = [line for line in page.splitlines() if line.startswith("| RF-Pixel (Table 1) | 0 | geneval-vlm(org/judge)")]
    assert f"{results['geneval-vlm']['metrics']['overall_hard']:.3f} [" in line
    assert f"{NUM} of 553 images scored" in page


def test_images_of_others_are_refused_for_a_run(
    run: RunDir, images: Path, judge: Callable[[Scripted], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(Scripted(lambda parts: "Yes", "yes"))
    assert main(on_prompts(images, tmp_path / "out", "--run", str(run.path))) == 2
    assert "has no origin.json; --run takes images that `rf-repro sample` made" in capsys.readouterr().err
    assert not ImageFolder(images.parent).origin_path.exists()


def test_a_judge_has_a_name_without_paths(run: RunDir, model: Path, root: Path) -> None:
    assert geneval2.judge_name("openai:Qwen/Qwen3-VL-8B@http://node:8000/v1") == "Qwen/Qwen3-VL-8B"
    assert geneval2.judge_name("Qwen/Qwen3-VL-8B-Instruct") == "Qwen/Qwen3-VL-8B-Instruct"
    assert geneval2.judge_name(f"{model}/") == "tiny-judge"
    assert geneval2.judge_name(str(run.path)) == f"pixel_rf-continued/{run.path.name}"
