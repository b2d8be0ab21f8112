"""Whatever records hold, a report's files show it and do nothing else."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from reports.build import build_report
from reports.escape import for_csv, for_html, for_latex, for_markdown, for_markdown_block
from reports.html import template
from reports.tables import Table, plain
from tests.core.test_shown import HOSTILE
from tests.reports.runs import make_items, write_geneval, write_run, write_samples

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1", "-0.5 [", "+a", "--1", "-1e")
NUMBERS = ("-0.5", "+0.51", "-1e-3", "12", "-.5", "+3.", "0 1 2", "0.731 [0.702, 0.758]", "-", "+", "", "a=b", "x@y", "3-4")


@pytest.mark.parametrize("text", FORMULAS)
def test_spreadsheets_compute_nothing(text: str) -> None:
    assert for_csv(text).startswith("'")
    assert for_csv(text)[1:2] not in ("\t", "\r", "\n")


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers_in_csv(text: str) -> None:
    assert for_csv(text) == text


def test_values_that_are_no_text_stay() -> None:
    assert [for_csv(value) for value in (-0.5, 3, None, True)] == [-0.5, 3, None, True]
    assert for_html(Markup("<b>\x1b</b>")) == Markup("<b>\x1b</b>")
    assert for_html(3) == 3


def test_nothing_invisible_is_left() -> None:
    for escape in (for_csv, for_html, for_latex, for_markdown, for_markdown_block):
        assert not CONTROL.search(escape(HOSTILE))
    assert for_html("a\nb\u00a0c") == "a\nb\u00a0c"
    assert "\\x1b" in template("page.html.j2").environment.from_string("{{ text }}").render(text="\x1b<b>")
    shown = plain(Table("t", "t", "c", ("a",), ((HOSTILE,),), ()))
    assert len(shown.split("\n")) == 2
    assert not CONTROL.search(shown)


def test_markdown_begins_no_block_link_or_formula() -> None:
    for text in ("# x", "- x", "+ x", "> x", "~~~", "=====", "1. x", "12) x"):
        assert re.match(r"\\[#+>~=-]|\d+\\[.)]", for_markdown_block(text)), text
    for text in ("0.5 of it, 3 of 4", "-0.018 of all", "+0.5", "pixel_rf"):
        assert for_markdown_block(text) == text
    assert for_markdown("[a](b) [a][b] [a]: http://x $x$ | ~~y~~") == (
        "[a]\\(b) [a]\\[b] [a]\\: http://x \\$x\\$ \\| \\~\\~y\\~\\~"
    )
    assert for_markdown("0.731 [0.702, 0.758] pixel_rf") == "0.731 [0.702, 0.758] pixel_rf"


def hostile(value: Any, path: str = "") -> Any:
    """A record with every free text of it made hostile; what the program itself looks up stays."""
    kept = ("tag", "failure", "benchmark", "scale", "variant", "config_hash", "status", "protocol", "items", "action", "started",
            "revision", "started_from", "detector")  # fmt: skip
    if isinstance(value, str):
        return f"=1+1 {HOSTILE.replace(chr(0xDCFF), '')} <script>alert(1)</script> | ](javascript:1) $x$ \\input{{x}} {value}"
    if isinstance(value, list):
        return [hostile(item, path) for item in value]
    if isinstance(value, dict):
        return {name: item if name in kept else hostile(item, name) for name, item in value.items()}
    return value


def test_every_text_of_the_records_is_inert_in_every_file_of_a_report(tmp_path: Path) -> None:
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        run = write_run(tmp_path / "runs", variant, 0)
        items = [
            {**hostile(item), "details": {hostile(name): boxes for name, boxes in item["details"].items()}}
            for item in make_items(lambda task, index, sample, top=top: None if index == 3 else index < top)
        ]
        write_geneval(run, items, evaluator=hostile({"detector": "scenes", "detector_revision": "1", "more": "x"}))
        write_samples(run, items)
        record = run.record()
        attempts = [replace(record.attempts[0], **hostile({"host": "h", "device": "cpu", "error": "e", "arithmetic": "a"}))]
        run.write_record(replace(record, attempts=attempts, versions={"numpy": hostile("2"), "=2": "1"}))
    build_report([tmp_path / "runs"], tmp_path / "report", "smoke")
    files = [path for path in (tmp_path / "report").rglob("*") if path.suffix in (".md", ".html", ".csv", ".tex", ".json")]
    assert {path.suffix for path in files} == {".md", ".html", ".csv", ".tex", ".json"}
    shown = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        shown += text.count("1+1")
        if path.suffix != ".csv":
            assert not CONTROL.search(text), path.name
        if path.suffix == ".json":
            json.loads(text)
        elif path.suffix == ".csv":
            for row in csv.reader(text.splitlines()):
                assert not any(CONTROL.search(cell) or (for_csv(cell) != cell) for cell in row), path.name
        elif path.suffix == ".md":
            assert "<script" not in text
            assert "](javascript" not in text
        elif path.suffix == ".html":
            assert "<script>alert" not in text
        else:
            assert "\\input" not in text
    assert shown > 10
