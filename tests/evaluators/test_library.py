"""The evaluators as a library: what the README shows runs as it stands, no file is left behind, and no torch is loaded early."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluators import dpg, geneval, geneval2, geneval_vlm, understanding
from evaluators.results import Evaluation
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, read_jsonl
from rf_repro.core.records import EvalResult
from tests.evaluators.dpg_world import csv_text, simple_rows, write_grids
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, PixelColor, RectangleDetector, write_folder
from tests.evaluators.geneval2_files import make_rows, perfect, write_images, write_rows
from tests.evaluators.scripted import Scripted
from tests.evaluators.understanding_files import MINIS, write_parquet

ROOT = Path(__file__).resolve().parents[2]


def snippet() -> str:
    """The Python in the README."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(code)


def test_the_readme_scores_a_folder_in_five_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open_clip", reason="the extra `geneval` is not installed")
    pytest.importorskip("transformers", reason="the extra `geneval` is not installed")
    from rf_repro.cli import main
    from tests.evaluators.tiny_geneval import save_tiny_clip, save_tiny_detector, small_models, write_noise, write_prompts

    assert len([line for line in snippet().splitlines() if line.strip()]) == 5
    for name in ("mask2former", "clip"):
        (tmp_path / name).mkdir()
    save_tiny_detector(tmp_path / "mask2former")
    save_tiny_clip(tmp_path / "clip")
    write_noise(tmp_path / "images", write_prompts(tmp_path / "prompts.jsonl"), 4)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with small_models():
        exec(compile(snippet(), "README.md", "exec"), {})
        said = capsys.readouterr().out.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        command = ["evaluate", "geneval", "images", "--prompts", "prompts.jsonl", "--weights", "mask2former", "--clip", "clip"]
        assert main([*command, "--out", "out"]) == 0
    result, rows = read_json(tmp_path / "out" / "geneval.json"), read_jsonl(tmp_path / "out" / "geneval.items.jsonl")
    assert said[0] == f"GenEval {result['metrics']['overall']:.3f}, 24 of 24 images, {result['protocol']}"
    assert said[1].startswith(f"{rows[0]['correct']} a photo for single_object")
    assert len(rows) == 24


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", [[RED_COW_BLUE_DOG, TWO_COWS]] * len(PROMPTS))


def drawn(**settings: object) -> geneval.Options:
    """For models that read the drawn images."""
    models = {"detector": RectangleDetector(), "classifier": PixelColor(), "self_check": False}
    return geneval.Options(**{**models, "prompts": PROMPTS, "images_per_prompt": 2, "device": "cpu", **settings})  # type: ignore[arg-type]


def test_geneval_with_models_of_ones_own(images: Path, tmp_path: Path) -> None:
    phases: list[str] = []
    result = geneval.evaluate(images, drawn(), progress=lambda what, done, total: phases.append(what))
    assert isinstance(result, EvalResult)
    assert (result.n, result.expected_n, result.items, result.cache) == (12, 12, None, None)
    assert result.metrics["overall"] == pytest.approx((1 + 5 * 0.5) / 6)
    assert result.evaluator["calibration"] == "not checked"
    assert list(dict.fromkeys(phases)) == ["read images", "detect", "score"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    for index in (1, 0):
        geneval.evaluate_share(images, drawn(out=tmp_path / "out"), (index, 2))
    kept = geneval.evaluate(images, drawn(out=tmp_path / "out", rescore=True))
    assert (kept.rows, kept.metrics, kept.items) == (result.rows, result.metrics, "geneval.items.jsonl")
    assert EvalResult.from_dict(read_json(tmp_path / "out" / "geneval.json")).to_dict() == kept.to_dict()
    assert read_jsonl(tmp_path / "out" / "geneval.items.jsonl") == kept.rows
    for _ in range(2):  # what the first leaves beside the images is not amiss to the second
        assert geneval.evaluate(images, drawn(out=images)).problems == ()
    strict = geneval.evaluate(images, drawn(rules=geneval.GenEvalOptions(threshold=0.96, counting_threshold=0.96)))
    assert strict.metrics["overall"] == pytest.approx(0)
    assert strict.protocol != result.protocol


def test_what_geneval_refuses(images: Path) -> None:
    first = images / "00000" / "samples" / "0000.png"
    known = {place: image.sha256 for place, image in geneval.evaluate(images, drawn()).scan.by_place.items()}
    geneval.evaluate(images, drawn(digests=known))
    first.write_bytes((images / "00000" / "samples" / "0001.png").read_bytes())
    with pytest.raises(UserError, match=r"0000\.png: is not the image that the run made"):
        geneval.evaluate(images, drawn(digests=known))
    first.unlink()
    lines: list[str] = []
    with pytest.raises(UserError, match="11 of 12 images can be scored"):
        geneval.evaluate(images, drawn(), tell=lines.append)
    assert lines == ["1 problems (missing image: 1)", "  missing image: 00000/samples: 1 of 2 images"]
    assert geneval.evaluate(images, drawn(partial=True)).n == 11
    with pytest.raises(UserError, match="pixel gives no logits that could be checked; give self_check=False"):
        geneval.evaluate(images, drawn(partial=True, self_check=True))
    with pytest.raises(UserError, match="a share of the images needs a folder"):
        geneval.evaluate_share(images, drawn(partial=True), (0, 2))
    with pytest.raises(UserError, match="detector='yolo': must be a Detector, transformers or mmdet"):
        drawn(detector="yolo")
    with pytest.raises(UserError, match="batch_size=0: must be >= 1"):
        geneval.Options(batch_size=0)


def test_each_benchmark_takes_any_model_and_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    """Perfect judges have perfect scores; the model is asked for only once the images are known to be there."""
    rows = make_rows(3)
    listed = write_images(tmp_path / "files", rows)
    write_rows(tmp_path / "data.jsonl", rows)
    (tmp_path / "questions.csv").write_text(csv_text(simple_rows()), encoding="utf-8")
    grids = write_grids(tmp_path / "grids", list({row[0] for row in simple_rows()}))
    data = write_parquet(tmp_path / "mmmu.parquet", MINIS["mmmu"])
    before = sorted(tmp_path.rglob("*"))
    yes = Scripted(lambda parts: "yes", "yes")
    results: list[tuple[Evaluation, str, float | None]] = [
        (geneval2.evaluate(listed, geneval2.Options(model=lambda: perfect(rows), data=str(tmp_path / "data.jsonl"))),
         "soft_tifa_gm", 1.0),
        (geneval_vlm.evaluate(images, geneval_vlm.Options(model=yes, prompts=PROMPTS, images_per_prompt=2)),
         "single_object_hard", 1.0),
        (dpg.evaluate(grids, dpg.Options(model=yes, csv=tmp_path / "questions.csv")), "dpg", 1.0),
        (understanding.evaluate("mmmu", understanding.Options(model=Scripted(MINIS["mmmu"].answerer()), data=str(data))),
         "official/accuracy", 1.0),
    ]  # fmt: skip
    for result, metric, value in results:
        assert isinstance(result, EvalResult)
        assert result.metrics[metric] == value
        assert len(result.rows) == result.n > 0
        assert set(result.to_dict()) == set(EvalResult("", "", {}, 0, 0).to_dict())
        assert result.items is None
    assert [result.evaluator.get("judge") for result, *_ in results[:3]] == [
        "scripted: perfect",
        "scripted: yes",
        "scripted: yes",
    ]
    assert sorted(tmp_path.rglob("*")) == before

    def not_yet() -> Scripted:
        raise AssertionError("asked for too early")

    (grids / "256.png").unlink()
    (images / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(UserError, match="1 problem, first missing: 256"):
        dpg.evaluate(grids, dpg.Options(model=not_yet, csv=tmp_path / "questions.csv"))
    with pytest.raises(UserError, match="11 of 12 images can be scored"):
        geneval_vlm.evaluate(images, geneval_vlm.Options(model=not_yet, prompts=PROMPTS, images_per_prompt=2))
    with pytest.raises(UserError, match="out=None: a share of the questions needs a folder"):
        geneval2.evaluate_share(listed, geneval2.Options(model=not_yet, data=str(tmp_path / "data.jsonl")), (0, 2))


def test_no_torch_before_a_model_is_loaded() -> None:
    code = (
        "import sys\nfrom evaluators import dpg, geneval, geneval2, geneval_vlm, understanding\n"
        "print([name for name in ('torch', 'transformers', 'open_clip') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
