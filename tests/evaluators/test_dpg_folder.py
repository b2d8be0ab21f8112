"""Folders of images for DPG-Bench: cells in their order, and everything that is wrong by its name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.dpg.folder import crop_of, scan, write_grids
from rf_repro.core.errors import UserError
from rf_repro.core.files import write_json
from tests.evaluators.dpg_world import COLORS, SIDE, write_grid
from tests.evaluators.dpg_world import write_grids as draw_grids

ITEMS = ("partiprompts97", "256", "drawtext1")


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    return draw_grids(tmp_path / "grids", ITEMS)


def color(image: Image.Image) -> tuple[int, ...]:
    """Of an image of one colour."""
    pixels = np.asarray(image)
    assert (pixels == pixels[0, 0]).all()
    return tuple(map(int, pixels[0, 0]))


def test_cells_are_read_by_rows(grids: Path) -> None:
    reports: list[tuple[int, int]] = []
    found = scan(grids, ITEMS, progress=lambda done, total: reports.append((done, total)))
    assert (found.layout, found.resolution, found.problems) == ("grids", SIDE, ())
    assert [file.item_id for file in found.files] == ["256", "drawtext1", "partiprompts97"]  # in order of name
    first = next(file for file in found.files if file.item_id == "partiprompts97")
    assert [color(crop_of(crop)) for crop in first.crops] == list(COLORS)
    assert all(crop_of(crop).size == (SIDE, SIDE) for crop in first.crops)
    assert len({crop.digest for file in found.files for crop in file.crops}) == 12
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_a_name_ends_at_its_first_dot(grids: Path) -> None:
    (grids / "256.png").rename(grids / "256.v2.final.png")
    found = scan(grids, ITEMS)
    assert ("256", "256.v2.final.png") in [(file.item_id, file.name) for file in found.files]
    assert not found.problems


def test_single_images(tmp_path: Path) -> None:
    for item_id in ITEMS:
        Image.new("L", (SIDE, SIDE), 7).save(tmp_path / f"{item_id}.png")
    found = scan(tmp_path, ITEMS, pic_num=1)
    assert (found.layout, found.resolution, [len(file.crops) for file in found.files]) == ("images", SIDE, [1, 1, 1])
    assert color(crop_of(found.files[0].crops[0])) == (7, 7, 7)
    assert len({file.crops[0].digest for file in found.files}) == 1  # equal images: asked about once


def test_the_same_pixels_have_one_digest_in_every_layout(grids: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    for prompt_id, item_id in enumerate(ITEMS):
        write_json(samples / f"{prompt_id:05d}" / "metadata.jsonl", {"tag": "dpg", "prompt": "text", "item_id": item_id})
        (samples / f"{prompt_id:05d}" / "samples").mkdir()
        for sample, (r, g, b) in enumerate(COLORS):
            path = samples / f"{prompt_id:05d}" / "samples" / f"{sample:04d}.png"
            Image.new("RGB", (SIDE, SIDE), (r, g, b + prompt_id)).save(path)
    drawn, sampled = scan(grids, ITEMS), scan(samples, ITEMS)
    assert sampled.layout == "samples"
    assert sampled.problems == ()
    assert set(sampled.digests) == {(prompt_id, sample) for prompt_id in range(3) for sample in range(4)}
    by_item = [{file.item_id: [crop.digest for crop in file.crops] for file in found.files} for found in (drawn, sampled)]
    assert by_item[0] == by_item[1]
    write_grids(sampled, tmp_path / "again")
    again = scan(tmp_path / "again", ITEMS)
    assert {file.item_id: [crop.digest for crop in file.crops] for file in again.files} == by_item[0]

    (samples / "00001" / "samples" / "0002.png").unlink()
    shutil.copy(samples / "00000" / "samples" / "0000.png", samples / "00000" / "samples" / "0004.png")
    write_json(samples / "00003" / "metadata.jsonl", {"tag": "single_object", "prompt": "a photo"})
    told = {str(problem) for problem in scan(samples, ITEMS).problems}
    assert told == {
        "damaged: 00001/samples/0002.png: no such file",
        "foreign file: 00000/samples/0004.png: 4 images of a prompt are asked about",
        "foreign file: 00003/metadata.jsonl: has no item_id; `rf-repro sample RUN --prompts dpg` writes it",
    }
    assert len(scan(samples, ITEMS).blocking) == 1


def test_every_problem_is_named(grids: Path) -> None:
    write_grid(grids / "256.png", side=SIDE - 1)
    (grids / "drawtext1.png").write_bytes((grids / "drawtext1.png").read_bytes()[:60])
    shutil.copy(grids / "partiprompts97.png", grids / "partiprompts97.copy.png")
    write_grid(grids / "Partiprompts97.png")
    (grids / "dpg-bench_20240101_results.txt").write_text("made by the official script")
    (grids / "more").mkdir()
    found = scan(grids, [*ITEMS, "vrd5"], resolution=SIDE)
    told = {(problem.kind, problem.path): problem.message for problem in found.problems}
    assert set(told) == {
        ("wrong size", "256.png"), ("damaged", "drawtext1.png"), ("duplicate", "partiprompts97.png"), ("missing", "vrd5"),
        ("unknown item", "Partiprompts97.png"), ("unknown item", "dpg-bench_20240101_results.txt"), ("foreign file", "more"),
    }  # fmt: skip
    assert told["wrong size", "256.png"] == "is 10x10, not 12x12, a grid of 2x2 images of 6 px"
    assert {problem.kind for problem in found.blocking} == {"wrong size", "damaged", "duplicate", "missing"}
    small = next(file for file in found.files if file.item_id == "256")
    last = np.asarray(crop_of(small.crops[3]))
    assert (last[-2:] == 0).all()  # black below and right of the image
    assert (last[:, -2:] == 0).all()
    assert tuple(last[0, 0]) == COLORS[3]  # the cell's corner is beyond the small grid's middle


def test_what_cannot_be_scanned(tmp_path: Path, grids: Path) -> None:
    with pytest.raises(UserError, match="no such folder of images"):
        scan(tmp_path / "none", ITEMS)
    with pytest.raises(UserError, match=r"holds no image named as an item of the benchmark, for example vrd1\.png"):
        scan(grids, ["vrd1"])
    with pytest.raises(UserError, match="pic_num=2: must be 4"):
        scan(grids, ITEMS, pic_num=2)
    found = scan(grids, ITEMS)
    write_grid(grids / "256.png", [(1, 2, 3)] * 4)
    with pytest.raises(UserError, match="changed while it was being scored"):
        crop_of(found.files[0].crops[0])
