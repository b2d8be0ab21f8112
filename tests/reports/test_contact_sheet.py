"""The contact sheet's fixed layout: what is put in can be found again from the items alone."""

import shutil

import pytest

from ablations.grid import GENEVAL_TASKS
from reports.build import build_report
from reports.contact_sheet import (
    CHANGED,
    COLUMNS,
    crossed_out,
    evenly,
    make_sheet,
    read_sheets,
    require_scored,
    sheet_rows,
    show_images,
    wrong_rows,
)
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from tests.reports.runs import color_of, make_items, write_geneval, write_run, write_samples


def test_a_row_shows_each_prompt_once_before_any_twice():
    items = make_items(lambda *_: True, prompts=5, samples=3)
    row = sheet_rows(items[::-1], GENEVAL_TASKS)["counting"]
    assert [(item["prompt_id"] - 10, item["sample"]) for item in row] == [
        *((p, 0) for p in range(5)),
        *((p, 1) for p in range(5)),
        (0, 2),
        (1, 2),
    ]


def test_many_prompts_are_sampled_evenly_and_unscored_images_left_out():
    items = make_items(lambda task, index, sample: None if index == 0 else True, prompts=25, samples=1)
    row = sheet_rows(items, GENEVAL_TASKS)["single_object"]
    assert [item["prompt_id"] for item in row] == [1 + 2 * index for index in range(COLUMNS)]
    assert evenly([5, 6, 7], 2) == [5, 6]
    assert evenly([5], 4) == [5]


def test_images_come_back_the_same_from_samples_and_from_the_sheet(tmp_path):
    items = make_items(lambda task, index, sample: index % 2 == 0, prompts=8)  # 16 images a task: 12 and the wrong among 4
    full, shipped = write_run(tmp_path / "a", "pixel", 0), write_run(tmp_path / "b", "pixel", 0)
    write_samples(full, items)
    for name, sheet in read_sheets(full, items, GENEVAL_TASKS).items():
        sheet.save(shipped.path / name)
    first, second = (read_sheets(run, items, GENEVAL_TASKS) for run in (full, shipped))
    assert list(first) == list(second) == ["contact_sheet.png", "wrong_sheet.png"]
    seen = set()
    for name, sheet in first.items():
        assert sheet.image_size == second[name].image_size == (8, 8)
        ours, theirs = show_images(sheet), show_images(second[name])
        assert set(ours) == set(theirs)
        assert not seen & set(ours)
        seen |= set(ours)
        for item in items:
            key = (item["prompt_id"], item["sample"])
            if key in ours:
                assert ours[key].tobytes() == theirs[key].tobytes()
                assert ours[key].getcolors() == [(64, color_of(item))]
    assert all((item["prompt_id"], item["sample"]) in seen for item in items if not item["correct"])


def test_the_second_sheet_has_the_wrong_images_that_the_first_has_not():
    items = make_items(lambda task, index, sample: index % 2 == 0, prompts=8)
    first, second = sheet_rows(items, GENEVAL_TASKS), wrong_rows(items, GENEVAL_TASKS)
    for task in GENEVAL_TASKS:
        shown = [(item["prompt_id"], item["sample"]) for item in first[task]]
        wrong = [(i["prompt_id"], i["sample"]) for i in items if i["tag"] == task and i["correct"] is False]
        assert sorted((item["prompt_id"], item["sample"]) for item in second[task]) == [key for key in wrong if key not in shown]
        assert second[task]


def test_large_images_are_scaled_down_and_their_size_is_kept(tmp_path):
    items = make_items(lambda *_: True, prompts=1, samples=1)
    run = write_run(tmp_path, "pixel", 0)
    write_samples(run, items, size=300)
    sheet = make_sheet(ImageFolder(run.samples), sheet_rows(items, GENEVAL_TASKS))
    assert (sheet.cell, sheet.image_size) == (128, (300, 300))
    assert show_images(sheet)[0, 0].getpixel((64, 64)) == color_of(items[0])


def test_neither_samples_nor_sheet_is_no_images(tmp_path):
    assert read_sheets(write_run(tmp_path, "pixel", 0), make_items(lambda *_: True), GENEVAL_TASKS) == {}


def test_images_that_are_not_those_that_were_scored_are_crossed_out(tmp_path):
    items = make_items(lambda *_: True)
    run = write_run(tmp_path, "pixel", 0)
    write_samples(run, items)
    folder = ImageFolder(run.samples)
    whole = read_sheets(run, items, GENEVAL_TASKS)["contact_sheet.png"]
    assert not whole.changed
    assert require_scored(whole) is whole
    shutil.copy(folder.image_path(4, 0), folder.image_path(5, 0))
    folder.image_path(6, 0).write_bytes(folder.image_path(6, 0).read_bytes()[:40])
    folder.image_path(3, 0).unlink()
    sheet = read_sheets(run, items, GENEVAL_TASKS)["contact_sheet.png"]
    assert sheet.changed.keys() == {(5, 0), (6, 0), (3, 0)}
    assert sheet.changed[5, 0] == CHANGED
    assert "3" in crossed_out([sheet])
    ours, before = show_images(sheet), show_images(whole)
    for key, image in before.items():
        assert (ours[key].tobytes() == image.tobytes()) == (key not in sheet.changed)
    with pytest.raises(UserError, match="delete it and run the sampling again"):
        require_scored(sheet)


def test_the_report_says_which_images_were_exchanged(tmp_path):
    items = make_items(lambda *_: False)
    run = write_run(tmp_path / "runs", "pixel", 0)
    write_geneval(run, items)
    write_samples(run, items)
    shutil.copy(run.images.image_path(4, 0), run.images.image_path(5, 0))
    page = build_report([tmp_path / "runs"], tmp_path / "out", "smoke").read_text()
    assert f"the image is {CHANGED}" in page


def test_a_foreign_sheet_is_named(tmp_path):
    items = make_items(lambda *_: True)
    run = write_run(tmp_path, "pixel", 0)
    write_samples(run, items)
    sheet = make_sheet(ImageFolder(run.samples), sheet_rows(items, GENEVAL_TASKS))
    (run.path / "contact_sheet.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(
        UserError, match=r"contact_sheet\.png: cannot read the image .*; delete it to have it made from the samples"
    ):
        read_sheets(run, items, GENEVAL_TASKS)
    (run.path / "contact_sheet.png").unlink()
    assert "contact_sheet.png" in read_sheets(run, items, GENEVAL_TASKS)
    ImageFolder(run.samples).manifest_path.unlink()
    sheet.image.crop((0, 0, 50, 50)).save(run.path / "contact_sheet.png")
    with pytest.raises(UserError, match="contact_sheet"):
        read_sheets(run, items, GENEVAL_TASKS)
