"""Each kind of claim against scores whose truth is known; the paper's own numbers make every claim true."""

from dataclasses import replace
from math import inf
from statistics import NormalDist

import pytest

from ablations.claims import CLAIMS, ColumnsWon, Difference, Equivalence, GainDifference, LeadBelow
from ablations.questions import MIRRORS
from ablations.registry import get_grid
from reports.collect import RowScores
from reports.runs import Run
from reports.statistics import Interval, Wins
from reports.verdicts import ClaimResult, decide_together, gate_values, holds, judge, p_values, published, published_text
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.scales import get_scale
from rf_repro.core.records import EvalResult
from rf_repro.core.run_dir import RunDir

CLAIM = {claim.id: claim for claim in CLAIMS}
N = 100  # items a task


def scores(table, shares, seeds=(0, 1, 2), world="scenes"):
    """`shares[row]` or `shares[row, column]` of each task's items are correct, the first ones, in every seed."""
    grid, found = get_grid(table).in_world(world), {}
    for column in grid.columns:
        found[column.key] = {}
        for row in grid.rows:
            share = shares.get((row.key, column.key), shares.get(row.key))
            items = [
                {"tag": task, "prompt": f"{task} {i}", "question_id": i, "cluster": i, "correct": i < round(N * (share or 0))}
                for task in column.tasks
                for i in range(N)
            ]
            result = EvalResult(column.evaluation, "p", {column.metric: share}, len(items), len(items))
            if share is None:
                found[column.key][row.key] = RowScores(row, {}, {}, (), f"no {row.key} run")
            else:
                found[column.key][row.key] = RowScores(
                    row, dict.fromkeys(seeds, result), {seed: list(items) for seed in seeds}, (), ""
                )
    return found


def gates_of(table, values, scale="tiny"):
    """Gates of rows: `values[row]` is every metric of every evaluation in every run that the row starts from."""
    gates = {}
    for row, value in values.items():
        for run in shared_runs(get_grid(table).variant(row).config(get_scale(scale))):
            digest = run.config.result_hash()
            gates |= {(digest, "geneval-vae-reconstruction", "overall"): value}
            gates |= {(digest, "encoder-probe", metric): value for metric in ("shape", "color")}
    return gates


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.id for claim in CLAIMS])
def test_the_papers_numbers_make_every_claim_true(claim):
    value = published(claim)
    assert holds(claim.comparison, value)


def test_published_numbers_by_hand():
    assert published(CLAIM["rf_beats_pixel"]) == pytest.approx(0.51)
    assert published(CLAIM["rf_gains_more_without_vae"]) == pytest.approx((0.76 - 0.25) - (0.77 - 0.52))
    assert published(CLAIM["generation_costs_understanding"]) == pytest.approx((588.5 - 560.2) / 800)
    assert published(CLAIM["pixel_rf_stays_close_to_vlm"]) == pytest.approx((588.5 - 577.6) / 800)
    won = {claim.id: published(claim) for claim in CLAIMS if isinstance(claim.comparison, ColumnsWon)}
    assert won == {
        "dino_beats_siglip": 4,
        "rf_improves_pixel_understanding": 6,
        "rf_improves_vae_understanding": 5,
        "pixel_rf_beats_vae_rf_understanding": 6,
        "pixel_rf_beats_vae_understanding": 6,
    }
    assert all(CLAIM[key].comparison.minimum == count for key, count in won.items())  # exactly what the paper has


def test_published_numbers_in_words():
    texts = {key: published_text(CLAIM[key]) for key in CLAIM}
    assert texts["rf_beats_pixel"] == "0.76 against 0.25 (+0.51)"
    assert texts["rf_gains_more_without_vae"] == "gains +0.51 and +0.25 (+0.26)"
    assert texts["generation_costs_understanding"] == "0.736 against 0.700 (+0.035)"
    assert texts["rf_improves_vae_understanding"] == "5 of 8 columns"


def between(low, high):
    """An estimate whose 95% interval this is, by the normal distribution."""
    return Interval((low + high) / 2, (high - low) / 2 / NormalDist().inv_cdf(0.975), inf, 10, (0, 1, 2))


@pytest.mark.parametrize(
    ("comparison", "low", "high", "fails", "holds_"),
    [
        (Difference("a", "b"), 0.01, 0.3, True, False),
        (Difference("a", "b"), -0.01, 0.3, False, False),
        (Difference("a", "b"), -0.3, -0.01, False, True),
        (Difference("a", "b"), 0.0, 0.0, False, False),
        (Difference("a", "b", 0.1), 0.05, 0.09, False, True),
        (GainDifference(("a", "b"), ("c", "d")), 0.01, 0.02, True, False),
        (GainDifference(("a", "b"), ("c", "d")), -0.02, -0.01, False, True),
        (Equivalence("a", "b", 0.02), -0.0199, 0.0199, True, False),
        (Equivalence("a", "b", 0.02), -0.01, 0.03, False, False),
        (Equivalence("a", "b", 0.02), -0.05, 0.05, False, False),  # noise is no evidence of equality
        (Equivalence("a", "b", 0.02), 0.03, 0.05, False, True),
        (Equivalence("a", "b", 0.02), -0.05, -0.03, False, True),
        (LeadBelow("a", "b", 0.05), -0.9, 0.04, True, False),
        (LeadBelow("a", "b", 0.05), 0.01, 0.06, False, False),
        (LeadBelow("a", "b", 0.05), 0.06, 0.2, False, True),
    ],
)
def test_p_values_say_what_the_interval_says(comparison, low, high, fails, holds_):
    p_fails, p_holds = p_values(comparison, between(low, high))
    assert (p_fails <= 0.025, p_holds <= 0.025) == (fails, holds_)


@pytest.mark.parametrize(
    ("ahead", "behind", "p"), [(8, 0, (0.001, 1.0)), (6, 2, (0.001, 1.0)), (5, 2, (1.0, 1.0)), (5, 3, (1.0, 0.001))]
)
def test_counts_of_columns(ahead, behind, p):
    won = Wins(ahead, (0.001,) * ahead + (1.0,) * (8 - ahead), (0.001,) * behind + (1.0,) * (8 - behind), 10, (0, 1, 2))
    assert p_values(ColumnsWon("a", "b", 6), won) == p


def result_with(p_fails, p_holds=1.0, verdict="reproduced"):
    return ClaimResult(CLAIM["rf_beats_pixel"], "tiny", verdict, between(0.1, 0.3), "", p_fails, p_holds)


def test_claims_are_corrected_together():
    not_run = ClaimResult(CLAIM["rf_beats_repa"], "tiny", "not run", None, "no run")
    given = [result_with(0.02), not_run, result_with(0.001), result_with(0.9, 0.004, "not reproduced"), result_with(0.012)]
    found = decide_together(given)
    assert [one.verdict for one in found] == ["inconclusive", "not run", "reproduced", "not reproduced", "inconclusive"]
    assert [one.p_fails for one in found] == [pytest.approx(0.04), None, pytest.approx(0.004), 0.9, pytest.approx(0.036)]
    assert found[3].p_holds == pytest.approx(0.016)
    assert found[0].reason == "alone it would be reproduced, but 4 claims are decided together"
    assert (found[1], found[2].reason) == (not_run, "")
    assert decide_together([result_with(0.02)])[0].verdict == "reproduced"


@pytest.mark.parametrize(("seeds", "words"), [((4,), "one seed"), ((4, 5), "two seeds")])
def test_below_three_seeds_there_is_no_verdict(seeds, words):
    for pixel, side in ((0.3, "agrees"), (0.9, "disagrees")):
        result = judge(CLAIM["rf_beats_pixel"], "tiny", scores("table3a", {"pixel": pixel, "pixel_rf": 0.8}, seeds), {})
        assert (result.verdict, result.p_fails, result.p_holds) == (f"{side} with the paper ({words})", None, None)
        assert decide_together([result]) == [result]


def test_sizes_stand_beside_directions():
    result = judge(CLAIM["rf_beats_pixel"], "tiny", scores("table3a", {"pixel": 0.3, "pixel_rf": 0.4}), {})
    assert result.size == pytest.approx(0.1 / 0.51)
    level = judge(CLAIM["continuous_does_not_help"], "tiny", scores("table3c", {"pixel": 0.3, "continuous": 0.3}), {})
    assert level.size is None


@pytest.mark.parametrize(
    ("pixel_rf", "pixel", "verdict"), [(0.8, 0.3, "reproduced"), (0.3, 0.8, "not reproduced"), (0.5, 0.5, "inconclusive")]
)
def test_a_difference(pixel_rf, pixel, verdict):
    shares = {"pixel": pixel, "pixel_rf": pixel_rf, "vae": None, "vae_rf": None}  # rows that the claim does not name
    result = judge(CLAIM["rf_beats_pixel"], "tiny", scores("table3a", shares), {})
    assert (result.verdict, result.estimate) == (verdict, pytest.approx(pixel_rf - pixel))
    assert result.low <= result.estimate <= result.high
    assert (result.seeds, result.n, result.unit, result.rows) == ((0, 1, 2), 3 * 2 * 6 * N, "GenEval", ("pixel_rf", "pixel"))
    assert result.to_dict() == {
        "id": "rf_beats_pixel", "table": "table3a", "statement": "Pixel+RF beats Pixel", "verdict": verdict,
        "p_fails": result.p_fails, "p_holds": result.p_holds, "paper": pytest.approx(0.51),
        "difference": result.estimate, "low": result.low, "high": result.high, "scale": "tiny", "seeds": [0, 1, 2], "n": result.n,
    }  # fmt: skip


def test_a_difference_of_gains_takes_four_rows():
    shares = {"pixel": 0.2, "pixel_rf": 0.8, "vae": 0.5, "vae_rf": 0.7}
    result = judge(CLAIM["rf_gains_more_without_vae"], "tiny", scores("table3a", shares), gates_of("table3a", {"vae": 0.99}))
    assert (result.verdict, result.estimate) == ("reproduced", pytest.approx(0.6 - 0.2))
    assert result.n == 3 * 4 * 6 * N


def test_equivalence_needs_precision_not_only_equality():
    claim = CLAIM["codebook_size_hardly_matters"]
    shares = {"pixel_rf": 0.5, "pixel_rf_k_double": 0.5, "pixel_rf_k_quarter": None, "pixel_rf_k_half": None}
    assert judge(claim, "tiny", scores("table3d", shares), {}).verdict == "reproduced"  # the same items: no noise
    noisy = scores("table3d", shares)
    other = noisy["geneval"]["pixel_rf_k_double"]
    flipped = {seed: [{**row, "correct": not row["correct"]} for row in rows] for seed, rows in other.items.items()}
    noisy["geneval"]["pixel_rf_k_double"] = replace(other, items=flipped)
    result = judge(claim, "tiny", noisy, {})
    assert (result.verdict, result.estimate) == ("inconclusive", 0)
    assert judge(claim, "tiny", scores("table3d", shares | {"pixel_rf": 0.7}), {}).verdict == "not reproduced"


def test_continuous_tokens_that_hurt_do_not_help_either():
    claim = CLAIM["continuous_does_not_help"]
    for continuous, verdict in ((0.1, "reproduced"), (0.4, "reproduced"), (0.8, "not reproduced")):
        shares = {"pixel": 0.4, "continuous": continuous, "pixel_rf": None}
        assert judge(claim, "tiny", scores("table3c", shares), {}).verdict == verdict


@pytest.mark.parametrize(
    ("won", "lost", "verdict"), [(6, 2, "reproduced"), (8, 0, "reproduced"), (5, 3, "not reproduced"), (5, 2, "inconclusive")]
)
def test_columns_won(won, lost, verdict):
    """Clear wins and losses; what is left over is a tie, which could be either."""
    shares = dict.fromkeys(("vlm_only", "vae", "vae_rf", "pixel", "pixel_rf"), 0.5)
    for index, kind in enumerate(MIRRORS):
        if index < won + lost:
            shares["pixel_rf", kind] = 0.8 if index < won else 0.2
    result = judge(CLAIM["rf_improves_pixel_understanding"], "tiny", scores("table2", shares), {})
    assert (result.verdict, result.estimate, result.low, result.high) == (verdict, won, won, 8 - lost)
    assert result.unit == "columns won"


def test_means_over_columns():
    shares = dict.fromkeys(("vae", "vae_rf", "pixel_rf"), 0.6) | {"vlm_only": 0.6, "pixel": 0.6, ("pixel", "word"): 0.2}
    found = scores("table2", shares)
    costs = judge(CLAIM["generation_costs_understanding"], "tiny", found, {})
    assert (costs.verdict, costs.estimate) == ("reproduced", pytest.approx(0.4 / 8))
    assert costs.n == 3 * 2 * 8 * N
    assert judge(CLAIM["pixel_rf_stays_close_to_vlm"], "tiny", found, {}).verdict == "reproduced"


def test_what_was_not_run_says_why():
    missing = judge(CLAIM["rf_beats_pixel"], "tiny", scores("table3a", {"pixel": 0.5}), {})
    assert (missing.verdict, missing.reason) == ("not run", "Pixel+RF: no pixel_rf run")
    assert (missing.estimate, missing.low, missing.high, missing.seeds, missing.n) == (None, None, None, (), 0)
    apart = scores("table3a", {"pixel": 0.5, "pixel_rf": 0.5})
    row = apart["geneval"]["pixel"]
    apart["geneval"]["pixel"] = replace(row, results={9: row.results[0]}, items={9: row.items[0]})
    reason = judge(CLAIM["rf_beats_pixel"], "tiny", apart, {}).reason
    assert reason == "Pixel+RF and Pixel have no seed in common"
    one_column = scores("table2", {"vlm_only": 0.5, "pixel": 0.5, ("pixel", "chart"): None})
    assert judge(CLAIM["generation_costs_understanding"], "tiny", one_column, {}).verdict == "not run"
    other_systems = judge(CLAIM["rf_pixel_beats_bagel"], "tiny", {}, {})
    assert (other_systems.verdict, other_systems.reason[:5]) == ("not run", "needs")


def test_a_gate_that_is_missed_or_unmeasured_leaves_the_claim_open():
    claim, found = CLAIM["rf_helps_vae"], scores("table3a", {"vae": 0.1, "vae_rf": 0.9, "pixel": None, "pixel_rf": None})
    assert judge(claim, "tiny", found, gates_of("table3a", {"vae": 0.97})).verdict == "reproduced"
    missed = judge(claim, "tiny", found, gates_of("table3a", {"vae": 0.969}))
    assert (missed.verdict, missed.estimate) == ("inconclusive", pytest.approx(0.8))
    assert "0.969, at least 0.97 needed" in missed.reason
    unmeasured = judge(claim, "tiny", found, {})
    assert (unmeasured.verdict, unmeasured.reason[-12:]) == ("inconclusive", "not measured")
    smoke = judge(claim, "smoke", found, gates_of("table3a", {"vae": 1.0}, "tiny"))
    assert smoke.verdict == "inconclusive"  # the gate of another config is not this run's


def test_both_encoders_have_their_own_gate_where_they_are_pretrained_in_suite():
    claim, found = CLAIM["dino_beats_siglip"], scores("table3e", {"vlm_dino": 0.9, "vlm_siglip": 0.2})
    assert judge(claim, "tiny", found, gates_of("table3e", {"vlm_dino": 0.96, "vlm_siglip": 0.97})).verdict == "reproduced"
    weak = judge(claim, "tiny", found, gates_of("table3e", {"vlm_dino": 0.96, "vlm_siglip": 0.9}))
    assert weak.verdict == "inconclusive"
    assert weak.reason.startswith("gate of SigLIP-style, color")
    assert "DINO" not in weak.reason
    found = scores("table3e", {"vlm_dino": 0.9, "vlm_siglip": 0.2}, world="image_text")
    assert judge(claim, "paper", found, {}).verdict == "reproduced"  # downloaded encoders have none


def test_on_photographs_claims_are_about_the_papers_benchmarks():
    found = scores("table2", {"vlm_only": 0.5, "pixel_rf": 0.5, "pixel": 0.3}, world="image_text")
    won = judge(CLAIM["rf_improves_pixel_understanding"], "base", found, {})
    assert (won.verdict, won.estimate, won.claim.columns) == ("reproduced", 8, tuple(MIRRORS.values()))
    gap = judge(CLAIM["generation_costs_understanding"], "base", found, {})
    assert gap.estimate == pytest.approx(0.2)
    assert gap.unit == "mean over benchmarks"
    assert published_text(won.claim) == published_text(CLAIM["rf_improves_pixel_understanding"])


def test_gate_values_are_the_lowest_over_seeds_of_one_config(tmp_path):
    runs = []
    for digest, seed, value in (("a" * 64, 0, 0.9), ("a" * 64, 1, 0.8), ("b" * 64, 0, 0.1), ("b" * 64, 1, None)):
        run = RunDir.create(tmp_path, {}, digest, "tiny", "stage-vae", seed)
        run.write_eval("probe", EvalResult("probe", "p", {"shape": value}, 5, 5, missing={} if value else {"shape": "why"}))
        runs.append(Run(run, run.record()))
    assert gate_values(runs) == {("a" * 64, "probe", "shape"): 0.8, ("b" * 64, "probe", "shape"): 0.1}
