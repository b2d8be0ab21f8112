"""The README's table is what the published records give."""

from pathlib import Path

import pytest

from reports.findings import find
from reports.readme import claims_table, markers, update_readme
from rf_repro.cli import main
from rf_repro.core.errors import UserError
from tests.reports.runs import make_items, write_geneval, write_run

ROOT = Path(__file__).resolve().parents[2]


def write_pair(root):
    for variant, top in (("pixel", 1), ("pixel_rf", 3)):
        write_geneval(write_run(root, variant, 0), make_items(lambda task, index, sample, top=top: index < top))


@pytest.mark.parametrize("scale", sorted(path.name for path in (ROOT / "reports" / "results").iterdir() if path.is_dir()))
def test_the_readmes_table_equals_the_records(scale):
    begin, end = markers(scale)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split(begin)[1].split(end)[0].strip()
    assert shown == claims_table(find([ROOT / "reports" / "results" / scale], scale)), (
        f"run: rf-repro report --scale {scale} --runs reports/results/{scale} --readme README.md"
    )


def test_the_command_rewrites_what_stands_between_the_markers_and_nothing_else(tmp_path, capsys):
    write_pair(tmp_path / "runs")
    readme = tmp_path / "README.md"
    begin, end = markers("smoke")
    readme.write_text(f"# Title\n\n{begin}\nold | text\n{end}\n\nAfter.\n")
    command = [
        "report",
        "--scale",
        "smoke",
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
        "--readme",
        str(readme),
    ]
    assert main(command) == 0
    text = readme.read_text()
    table = claims_table(find([tmp_path / "runs"], "smoke"))
    assert text == f"# Title\n\n{begin}\n{table}\n{end}\n\nAfter.\n"
    assert "| Pixel+RF beats Pixel (Table 3a) | 0.76 against 0.25 (+0.51) | +0.500 [" in table
    assert "] GenEval | 98% | 0 | agrees with the paper (one seed) |" in table
    assert "| RF beats REPA (Table 3b) | 0.76 against 0.43 (+0.33) | – | – | – | not run |" in table
    assert "claims of Table 1, which need" in table


@pytest.mark.parametrize("text", ["nothing", "{begin}", "{end}{begin}", "{begin}{end}{begin}{end}", "{begin}{begin}{end}"])
def test_a_readme_without_one_pair_of_markers_is_refused_and_kept(tmp_path, text):
    begin, end = markers("smoke")
    readme = tmp_path / "README.md"
    readme.write_text(text.format(begin=begin, end=end))
    before = readme.read_text()
    with pytest.raises(UserError, match="once each, in this order"):
        update_readme(readme, find([], "smoke"))
    assert readme.read_text() == before
    with pytest.raises(UserError, match="no such file"):
        update_readme(tmp_path / "none.md", find([], "smoke"))
