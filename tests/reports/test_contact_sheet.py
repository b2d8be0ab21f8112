"""The contact sheet's fixed layout: what is put in can be found again from the items alone."""

import pytest

from ablations.grid import GENEVAL_TASKS
from reports.contact_sheet import COLUMNS, evenly, make_contact_sheet, sheet_rows, show_images
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from tests.reports.runs import color_of, make_items, write_run, write_samples


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
    items = make_items(lambda *_: True)
    full, shipped = write_run(tmp_path / "a", "pixel", 0), write_run(tmp_path / "b", "pixel", 0)
    write_samples(full, items)
    make_contact_sheet(ImageFolder(full.samples), items, GENEVAL_TASKS).save(shipped.path / "contact_sheet.png")
    first, second = (show_images(run, items, GENEVAL_TASKS) for run in (full, shipped))
    assert set(first) == set(second) == {(item["prompt_id"], item["sample"]) for item in items}
    for item in items:
        key = (item["prompt_id"], item["sample"])
        assert first[key].tobytes() == second[key].tobytes()
        assert first[key].getcolors() == [(64, color_of(item))]


def test_neither_samples_nor_sheet_is_no_images(tmp_path):
    assert show_images(write_run(tmp_path, "pixel", 0), make_items(lambda *_: True), GENEVAL_TASKS) == {}


def test_a_missing_image_and_a_foreign_sheet_are_named(tmp_path):
    items = make_items(lambda *_: True)
    run = write_run(tmp_path, "pixel", 0)
    write_samples(run, items)
    sheet = make_contact_sheet(ImageFolder(run.samples), items, GENEVAL_TASKS)
    gone = ImageFolder(run.samples).image_path(3, 0)
    gone.unlink()
    with pytest.raises(UserError, match="00003"):
        show_images(run, items, GENEVAL_TASKS)
    ImageFolder(run.samples).manifest_path.unlink()
    sheet.crop((0, 0, 50, 50)).save(run.path / "contact_sheet.png")
    with pytest.raises(UserError, match="contact_sheet"):
        show_images(run, items, GENEVAL_TASKS)
