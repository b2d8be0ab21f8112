"""The page in a real browser: it renders, its filters work, nothing is logged as an error, and text stays text."""

import re

import pytest

from reports.build import build_report
from tests.reports.chromium import look, needs_browser
from tests.reports.runs import make_items, write_geneval, write_metrics, write_run, write_samples

pytestmark = needs_browser
NASTY = "<img src=x onerror=document.title='owned'> & {task} {index} </script>"

# Appended to a copy of the page: uses the form as a reader would and leaves what it saw in a <pre>.
PROBE = """
<script>
const seen = {};
const form = document.getElementById("filters");
const cards = () => [...document.querySelectorAll("#cards .card")];
function set(values) {
  for (const [name, value] of Object.entries({variant: "", seed: "", task: "", verdict: "", text: "", ...values})) {
    form.elements[name].value = value;
  }
  form.dispatchEvent(new Event("input", {bubbles: true}));
  return {count: document.getElementById("count").textContent, cards: cards().length,
          texts: [...new Set(cards().map((card) => card.textContent))]};
}
seen.start = {count: document.getElementById("count").textContent, verdict: form.elements.verdict.value};
seen.all = set({});
document.getElementById("more").click();
seen.more = cards().length;
seen.wrong = set({verdict: "wrong"});
seen.correct = set({verdict: "correct", variant: "1", seed: "0", task: "4"});
seen.unscored = set({verdict: "not scored"});
seen.text = set({text: "POSITION 3"});
seen.reason = set({text: "found 0", task: "0", variant: "0"});
seen.nothing = set({text: "no such words"});
set({verdict: "wrong"});
const box = document.querySelector(".box");
const picture = document.querySelector(".picture");
seen.box = {left: box.style.left, width: box.style.width, title: box.title, shown: getComputedStyle(box).display};
seen.sprite = getComputedStyle(picture).backgroundImage.slice(0, 27);
seen.square = Math.abs(picture.clientWidth - picture.clientHeight) <= 1 && picture.clientWidth > 80;
form.elements.boxes.click();
seen.hidden = getComputedStyle(box).display;
seen.images = [...document.querySelectorAll("main img")].map((image) => image.complete && image.naturalWidth > 0);
seen.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
seen.links = [...document.querySelectorAll('a[href^="#"]')].filter((a) => !document.getElementById(a.hash.slice(1))).length;
seen.injected = document.querySelectorAll('img[src="x"]').length;
seen.ink = getComputedStyle(document.body).color;
seen.title = document.title;
const pre = document.createElement("pre");
pre.id = "probe";
pre.textContent = JSON.stringify(seen);
document.body.append(pre);
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        for seed in (0, 1):
            run = write_run(root / "runs", variant, seed)
            items = make_items(
                lambda task, index, sample, top=top: None if (index, sample) == (3, 1) else index < top, text=NASTY
            )
            write_geneval(run, items)
            write_metrics(run, [10, 20, 30], 1.0, codebook=variant == "pixel_rf")
            write_samples(run, items)
    return build_report([root / "runs"], root / "out", "smoke")


def browse(page, width, dark=False):
    """What the probe saw at that window width, and what the browser logged."""
    return look(page, PROBE, width, dark)


def test_filters_show_what_they_name(page):
    seen, console = browse(page, 1280)
    assert console == []
    # 2 runs a variant, 6 tasks, 8 images each: of Pixel 2 are correct, 5 wrong and 1 not scored, of Pixel+RF 6, 1 and 1
    assert seen["start"] == {"count": "60 of 72 matching images drawn.", "verdict": "wrong"}
    assert seen["all"]["count"] == "60 of 192 matching images drawn."
    assert (seen["all"]["cards"], seen["more"]) == (60, 120)
    assert all("wrong" in text and "expected circle>=1, found 0" in text for text in seen["wrong"]["texts"])
    assert seen["correct"]["count"] == "6 of 6 matching images drawn."
    assert all("Pixel+RF, seed 0, position" in text and "correct" in text for text in seen["correct"]["texts"])
    assert seen["unscored"]["count"] == "24 of 24 matching images drawn."
    assert all("no image" in text and "not scored" in text for text in seen["unscored"]["texts"])
    assert seen["text"]["count"] == "8 of 8 matching images drawn."
    assert all("position 3" in text for text in seen["text"]["texts"])
    assert all("Pixel, seed" in text and "single object" in text for text in seen["reason"]["texts"])
    assert (seen["nothing"]["count"], seen["nothing"]["cards"]) == ("No image matches these filters.", 0)


def test_pictures_boxes_and_links_are_there(page):
    seen, _ = browse(page, 1280)
    assert seen["box"] == {"left": "12.5%", "width": "25%", "title": "circle 0.90", "shown": "block"}  # 1..3 of 8 pixels
    assert seen["hidden"] == "none"
    assert seen["sprite"] == 'url("data:image/png;base64,'
    assert seen["square"]
    assert len(seen["images"]) >= 5
    assert all(seen["images"])
    assert seen["links"] == 0


@pytest.mark.parametrize("width", [1280, 500])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_in_light_and_dark(page, width, dark):
    seen, console = browse(page, width, dark)
    assert console == []
    assert seen["width"][0] <= seen["width"][1] <= width
    brightness = sum(map(int, re.findall(r"\d+", seen["ink"])[:3])) / 3
    assert (brightness > 200) == dark


def test_prompts_never_become_html(page):
    seen, _ = browse(page, 1280)
    assert seen["injected"] == 0
    assert seen["title"] == "Representation Forcing, reproduced"
    assert any("<img src=x onerror=document.title='owned'> & position 3 </script>" in text for text in seen["text"]["texts"])


def test_console_errors_would_be_seen(page):
    loud = page.with_name("loud.html")
    loud.write_text(page.read_text(encoding="utf-8") + "<script>undefinedFunction()</script>", encoding="utf-8")
    _, console = browse(loud, 1280)
    assert len(console) == 1
    assert "undefinedFunction is not defined" in console[0]
