"""The page about a scored folder, in a real browser: images, boxes and masks in place, filters, and text that stays text."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reports.folder_insight import failure_table, score_table
from reports.folder_page import render_folder_page
from tests.reports.chromium import look, needs_browser

pytestmark = needs_browser
NASTY = "<img src=x onerror=document.title='owned'> & {task} </script>"
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const seen = {};
  const form = document.getElementById("filters");
  const cards = () => [...document.querySelectorAll("#cards .card")];
  function set(values) {
    for (const [name, value] of Object.entries({task: "", verdict: "", kind: "", text: "", ...values})) {
      form.elements[name].value = value;
    }
    form.dispatchEvent(new Event("input", {bubbles: true}));
    return cards().map((card) => card.textContent);
  }
  seen.start = cards().length;
  seen.near = set({kind: "near the threshold"}).length;
  seen.color = set({kind: "wrong colour"});
  seen.correct = set({verdict: "correct"}).length;
  const all = set({});
  seen.all = all.length;
  const picture = document.querySelector(".picture.file");
  const [image, mask] = picture.querySelectorAll("img");
  const box = picture.querySelector(".box");
  seen.image = [image.naturalWidth, image.naturalHeight];
  seen.mask = [mask.naturalWidth, getComputedStyle(mask).opacity];
  seen.box = [box.style.left, box.style.width, box.title];
  seen.aspect = picture.clientWidth / picture.clientHeight;
  form.elements.masks.click();
  seen.hidden = [getComputedStyle(mask).display, getComputedStyle(box).display];
  seen.injected = document.querySelectorAll('img[src="x"]').length;
  seen.title = document.title;
  seen.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
  seen.text = all[0];
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
}, 500));
</script>
"""


def png(color: str) -> str:
    buffer = BytesIO()
    Image.new("RGB", (4, 2), color).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    path = root / "my images #1" / "0000.png"
    path.parent.mkdir()
    Image.new("RGB", (40, 20), "navy").save(path)
    rows: list[dict[str, Any]] = [
        {"prompt_id": n, "sample": 0, "tag": tag, "prompt": f"{NASTY} {n}", "correct": correct, "failure": failure,
         "reason": "" if correct else NASTY, "details": {"cow": [[10, 5, 20, 15, 0.5]]}, "colors": [],
         "decisive": {"cow": 0.28}}
        for n, (tag, correct, failure) in enumerate(
            [("colors", True, None), ("colors", False, "wrong_color"), ("counting", False, "missing_object")]
        )
    ]  # fmt: skip
    thresholds = {"colors": 0.3, "counting": 0.3}
    out = root / "out" / "geneval.html"
    out.parent.mkdir()
    tasks = ["colors", "counting"]
    text = render_folder_page(
        rows, [score_table(rows, tasks), failure_table(rows, tasks, thresholds)], title=f"GenEval of {NASTY}",
        introduction=[NASTY], problems=[NASTY], tasks=tasks, thresholds=thresholds, image=lambda row: (path, 40, 20),
        masks=lambda row: {"cow": [png("white")]}, out=out.parent,
    )  # fmt: skip
    out.write_text(text, encoding="utf-8")
    return out


@pytest.mark.parametrize("width", [1280, 500])
def test_images_boxes_masks_and_filters(page: Path, width: int) -> None:
    seen, console = look(page, PROBE, width)
    assert console == []
    assert (seen["start"], seen["near"], seen["correct"], seen["all"]) == (2, 1, 1, 3)
    assert len(seen["color"]) == 1
    assert seen["image"] == [40, 20]
    assert seen["mask"] == [4, "0.35"]
    assert seen["box"] == ["25%", "25%", "cow 0.50"]
    assert seen["aspect"] == pytest.approx(2, rel=0.02)
    assert seen["hidden"] == ["none", "block"]
    assert seen["width"][0] <= seen["width"][1] <= width


def test_text_stays_text(page: Path) -> None:
    seen, _ = look(page, PROBE, 1280)
    assert seen["injected"] == 0
    assert seen["title"] == f"GenEval of {NASTY}"
    assert NASTY in seen["text"]
