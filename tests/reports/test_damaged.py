"""A damaged run is left out by name, and hides no other one."""

import re
import shutil
from dataclasses import replace

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.files import write_json
from rf_repro.core.outputs import digests
from tests.reports.runs import make_result, write_geneval
from tests.reports.test_build import STRONG, WEAK, report, write_grid


def test_a_record_that_contradicts_its_items_leaves_its_run_out_by_name(tmp_path, capsys):
    runs = write_grid(tmp_path / "runs")
    for items, more, said in (
        (WEAK, {"metrics": make_result(STRONG).metrics}, r"single_object is 0\.25 over the items, but the record says 0\.75"),
        (WEAK[:-1], {"n": 48}, r"47 scored images.*n=48"),
    ):
        write_geneval(runs["pixel", 0], items, **more)
        text, _, _ = report(tmp_path)
        assert re.search(said, capsys.readouterr().err)
        assert "no pixel run at scale smoke" in text
        assert "0.750" in text  # the other one


DAMAGE = {
    "run.json": b"", "config.json": b"[", "metrics.jsonl": b"{}\n{}\n", "evals/geneval.json": b'{"benchmark": "gen',
    "evals/geneval.items.jsonl": b"no\nno\n", "evals/geneval-step000010.json": b"5",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_left_out_by_name_and_the_others_are_reported(tmp_path, capsys, name):
    runs = write_grid(tmp_path / "runs")
    path = runs["pixel", 0].path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DAMAGE[name])
    text, page, _ = report(tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert line.startswith(f"rf-repro: left out {path.parents[name.count('/')]}: ")
    assert "0.750" in text
    assert f"Left out: {path.parents[name.count('/')]}" in page
    shutil.rmtree(runs["pixel_rf", 0].path)
    with pytest.raises(UserError, match=re.escape(str(runs["pixel", 0].path))):
        report(tmp_path)


def test_a_result_that_is_not_what_was_written_is_no_result(tmp_path, capsys):
    runs = write_grid(tmp_path / "runs")
    run = runs["pixel", 0]
    run.write_record(replace(run.record(), outputs={"evaluate": digests(run.path, [run.evals / "geneval.json"])}))
    report(tmp_path)
    assert "left out" not in capsys.readouterr().err
    result = run.eval_result("geneval")
    write_json(run.evals / "geneval.json", replace(result, failures=result.failures + 1).to_dict())
    report(tmp_path)
    assert "geneval.json: is not what was written" in capsys.readouterr().err
