"""Table 1 on photographs: other systems' records beside our run's, and the claims that compare them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.claims import CLAIMS
from ablations.registry import get_grids
from ablations.table1 import SYSTEMS, TABLE1
from reports.build import make_document
from reports.findings import Findings, find
from reports.paper_values import PAPER_TABLES
from reports.ship import ship_results
from reports.verdicts import ClaimResult
from rf_repro.config.prerequisites import run_name
from rf_repro.config.scales import get_scale
from rf_repro.core.dpg_names import dpg_name
from rf_repro.core.errors import UserError
from rf_repro.core.geneval_names import geneval_name
from rf_repro.core.hashing import content_hash
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir
from rf_repro.core.systems import system_run
from tests.own_grid import write_own_grid
from tests.reports.runs import make_items, make_result
from tests.reports.runs import write_run as write_smoke_run

LARGEST = 1024
PROMPTS = 8  # of a task
OFFICIAL, REWRITTEN = (geneval_name(LARGEST, LARGEST, LARGEST, prompts) for prompts in ("official", "bagel-long"))
MPLUG = dpg_name(LARGEST, LARGEST, None)
EVALUATOR = {"detector": "mask2former-mmdet", "detector_revision": "1", "color_classifier": "clip"}
JUDGE = {"judge": "mPLUG", "judge_revision": "1"}


def ours(root: Path, seed: int = 0) -> RunDir:
    """Table 1's own run at `base`, done and not scored."""
    config = TABLE1.configs("base")["pixel_rf"]
    run = RunDir.create(root, config.to_dict(), config.result_hash(), "base", run_name("pixel_rf", config), seed)
    run.write_record(replace(run.record(), status="done", steps=8000))
    return run


def score(run: RunDir, right: int, name: str = OFFICIAL, size: int = LARGEST, evaluator: Mapping[str, str] = EVALUATOR) -> None:
    """GenEval in which the first `right` of 8 prompts of each task are drawn right."""
    items = make_items(lambda task, index, sample: index < right, prompts=PROMPTS)
    protocol = f"geneval-official, {size}x{size} px"
    result = make_result(items, protocol=protocol, evaluator=dict(evaluator), items=f"{name}.items.jsonl")
    run.write_eval(name, result, items)


def score_dpg(run: RunDir, share: float, name: str = MPLUG, judge: Mapping[str, str] = JUDGE, size: int = LARGEST) -> None:
    items = [{"prompt_id": i, "tag": "dpg", "prompt": f"prompt {i}", "correct": share} for i in range(PROMPTS)]
    protocol = f"dpg-bench, 4 images a prompt at {size} px, DPG"
    result = EvalResult("dpg", protocol, {"dpg": share}, PROMPTS, PROMPTS, evaluator=dict(judge), items=f"{name}.items.jsonl")
    run.write_eval(name, result, items)


def claims(root: Path, scale: str = "base") -> dict[str, ClaimResult]:
    return {result.claim.id: result for result in find([root], scale).claims if result.claim.table == "table1"}


def cells(findings: Findings) -> dict[str, dict[str, str]]:
    """Table 1 as printed: first cell -> header -> cell."""
    (table,) = [table for table in make_document(findings).tables if table.name == "table1"]
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_the_systems_are_the_published_tables_other_rows() -> None:
    labels = PAPER_TABLES["table1"].labels
    assert {system.key: system.label for system in SYSTEMS} == {
        key: label for key, label in labels.items() if not key.startswith("rf_pixel") and not key.endswith("_rewritten")
    }


def test_a_systems_directory_is_a_done_run_of_no_steps_and_is_opened_again(tmp_path: Path) -> None:
    run = system_run(tmp_path, "base", "bagel")
    digest = content_hash({"system": "bagel"})
    assert run.path == tmp_path / "base" / "bagel" / f"{digest[:12]}-s0"
    record = run.record()
    assert (record.variant, record.seed, record.status, record.steps, record.config_hash) == ("bagel", 0, "done", 0, digest)
    assert run.config() == {"system": "bagel"}
    score(run, 3)
    assert system_run(tmp_path, "base", "bagel").eval_names() == [OFFICIAL]
    assert run.record() == record


@pytest.mark.parametrize(("own", "other", "verdict"), [(6, 2, "agrees"), (2, 6, "disagrees")])
def test_a_claim_is_decided_where_both_sides_are_there(own: int, other: int, verdict: str, tmp_path: Path) -> None:
    """Each model draws its own size, which is no other protocol."""
    score(ours(tmp_path), own)
    score(system_run(tmp_path, "base", "janus_pro"), other, size=384)
    result = claims(tmp_path)["rf_pixel_beats_janus_pro"]
    assert result.verdict == f"{verdict} with the paper (one seed)"
    assert (result.estimate, result.n) == (pytest.approx((own - other) / PROMPTS), 2 * 6 * PROMPTS * 2)
    assert result.low is not None
    assert result.high is not None
    assert (result.low > 0, result.high < 0) == (verdict == "agrees", verdict == "disagrees")
    assert result.title == "Table 1"
    assert "other systems cover prompts" in result.remark


def test_a_side_that_is_missing_is_named(tmp_path: Path) -> None:
    system = system_run(tmp_path, "base", "bagel")
    score(system, 3)
    found = claims(tmp_path)
    assert {result.verdict for result in found.values()} == {"not run"}
    assert found["rf_pixel_beats_bagel"].reason == "RF-Pixel: no pixel_rf-continued run at scale base"
    score(ours(tmp_path), 3)
    found = claims(tmp_path)
    assert found["rf_pixel_beats_bagel"].verdict == "disagrees with the paper (one seed)"  # level, which is not ahead
    assert found["rf_pixel_beats_show_o2"].reason == "Show-o2: no images of Show-o2: name a folder in the evaluation plan"
    rewritten = found["rf_pixel_matches_bagel_rewritten"]
    assert rewritten.verdict == "not run"
    assert "RF-Pixel†: seed 0 not scored (`rf-repro sample`" in rewritten.reason
    assert "BAGEL†: no images of BAGEL for the rewritten prompts: name a folder in the evaluation plan" in rewritten.reason
    assert "BAGEL: no images of BAGEL for DPG-Bench's prompts" in found["rf_pixel_competitive_dpg"].reason


@pytest.mark.parametrize("change", [{"detector_revision": "2"}, {"color_classifier": "another"}])
def test_other_detectors_or_weights_are_another_protocol(change: dict[str, str], tmp_path: Path) -> None:
    score(ours(tmp_path), 6)
    score(system_run(tmp_path, "base", "show_o2"), 2, evaluator={**EVALUATOR, **change})
    result = claims(tmp_path)["rf_pixel_beats_show_o2"]
    assert (result.verdict, result.measured) == ("not run", None)
    assert result.reason.startswith("protocols differ (geneval-official by mask2former-mmdet, 1, clip of RF-Pixel; ")
    assert "of Show-o2); score both with one" in result.reason
    shown = cells(find([tmp_path], "base"))  # which are both printed all the same
    assert shown["Show-o2"]["GenEval"].startswith("0.25 [")


def test_rewritten_prompts_are_compared_with_rewritten_ones(tmp_path: Path) -> None:
    own, system = ours(tmp_path), system_run(tmp_path, "base", "bagel")
    for run, right in ((own, 7), (system, 2)):
        score(run, right)
        score(run, 4, name=REWRITTEN)
    found = claims(tmp_path)
    assert (found["rf_pixel_matches_bagel_rewritten"].verdict, found["rf_pixel_matches_bagel_rewritten"].estimate) == (
        "agrees with the paper (one seed)", 0.0,
    )  # fmt: skip
    assert found["rf_pixel_beats_bagel"].verdict == "agrees with the paper (one seed)"
    score(system, 8, name=REWRITTEN)
    assert claims(tmp_path)["rf_pixel_matches_bagel_rewritten"].verdict == "disagrees with the paper (one seed)"


def test_dpg_by_mplug_or_by_a_judge_that_both_have(tmp_path: Path) -> None:
    own, system = ours(tmp_path), system_run(tmp_path, "base", "bagel")
    other, qwen = dpg_name(LARGEST, LARGEST, "Qwen"), {"judge": "Qwen", "judge_revision": "2"}
    score_dpg(own, 0.85)
    score_dpg(own, 0.70, other, qwen)
    assert "no images of BAGEL for DPG-Bench's" in claims(tmp_path)["rf_pixel_competitive_dpg"].reason
    score_dpg(system, 0.80, other, qwen, size=512)
    judged = claims(tmp_path)["rf_pixel_competitive_dpg"]
    assert (judged.verdict, judged.estimate) == ("disagrees with the paper (one seed)", pytest.approx(0.10))
    assert judged.remark.endswith("Judged by Qwen, not by mPLUG as in the paper.")
    score_dpg(system, 0.86)
    plain = claims(tmp_path)["rf_pixel_competitive_dpg"]
    assert (plain.verdict, plain.estimate) == ("agrees with the paper (one seed)", pytest.approx(0.01))
    assert "Judged by" not in plain.remark


def test_a_system_stands_beside_each_of_our_seeds_and_counts_once(tmp_path: Path) -> None:
    for seed, right in enumerate((5, 6, 7)):
        score(ours(tmp_path, seed), right)
    score(system_run(tmp_path, "base", "janus_pro"), 2)
    result = claims(tmp_path)["rf_pixel_beats_janus_pro"]
    assert (result.seeds, result.estimate) == ((0, 1, 2), pytest.approx((6 - 2) / PROMPTS))
    assert result.n == (3 + 1) * 6 * PROMPTS * 2
    assert cells(find([tmp_path], "base"))["Janus-Pro-7B"]["GenEval"].startswith("0.25 [")


def test_measured_values_stand_beside_published_ones_or_a_reason_does(tmp_path: Path) -> None:
    score(ours(tmp_path), 6)
    score_dpg(ours(tmp_path), 0.5)
    score(system_run(tmp_path, "base", "bagel"), 4, size=512)
    findings = find([tmp_path], "base")
    shown = cells(findings)
    assert list(shown) == list(PAPER_TABLES["table1"].labels.values())
    for label, measured, paper in (("RF-Pixel", "0.75 [", "0.84"), ("BAGEL", "0.50 [", "0.82")):
        assert shown[label]["GenEval"].startswith(measured)
        assert shown[label]["Paper, GenEval"] == paper
    assert shown["RF-Pixel"]["DPG"].startswith("0.50 [")
    assert shown["BAGEL"]["DPG"] == (
        "not run: no images of BAGEL for DPG-Bench's prompts: name a folder in the evaluation plan"
    )  # fmt: skip
    assert shown["BAGEL†"]["DPG"] == "–"
    assert shown["Show-o2"]["Single"] == "not run: no images of Show-o2: name a folder in the evaluation plan"
    assert shown["Show-o2"]["Paper, Single"] == "1.00"
    (table,) = [table for table in make_document(findings).tables if table.name == "table1"]
    assert any(note.startswith("BAGEL: geneval-official, 512x512 px, by mask2former-mmdet") for note in table.notes)
    (sources,) = [table for table in make_document(findings).tables if table.name == "sources"]
    printed = {(row[1], Path(row[3]).name) for row in sources.rows if row[0] == "Table 1, claims"}
    assert printed == {("BAGEL", f"{OFFICIAL}.json"), ("RF-Pixel", f"{OFFICIAL}.json"), ("RF-Pixel", f"{MPLUG}.json")}


def test_shipped_records_give_the_same_table_and_verdicts(tmp_path: Path) -> None:
    score(ours(tmp_path / "runs"), 6)
    score(system_run(tmp_path / "runs", "base", "bagel"), 4)
    ship_results([tmp_path / "runs"], tmp_path / "shipped", "base")
    before, after = find([tmp_path / "runs"], "base"), find([tmp_path / "shipped"], "base")
    assert [result.to_dict() for result in before.claims] == [result.to_dict() for result in after.claims]
    assert cells(before) == cells(after)


def test_a_world_that_scores_itself_compares_no_systems(tmp_path: Path) -> None:
    """Its shapes stand beside nobody's photographs, whatever lies there."""
    write_smoke_run(tmp_path, "pixel_rf", 0)
    score(system_run(tmp_path, "smoke", "bagel"), 2, name="geneval")
    found = claims(tmp_path, "smoke")
    assert {result.verdict for result in found.values()} == {"not run"}
    assert {result.reason for result in found.values()} == {f"needs {claim.needs}" for claim in CLAIMS if claim.table == "table1"}


def test_a_key_of_a_system_is_no_rows(tmp_path: Path) -> None:
    name = write_own_grid(tmp_path, ("heavier_text", "bagel"))
    with pytest.raises(UserError, match="variant 'bagel': is a system of table1; give the row of texts another key"):
        get_grids([name], get_scale("base"))
