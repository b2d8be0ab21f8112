"""Intervals against closed forms, against sums by hand, and in simulations of what they cover."""

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from reports.statistics import ColumnItems, Interval, columns_won, contrast, holm, interval, paired_difference, unique_prompts
from rf_repro.core.errors import UserError


def rows(task, verdicts):
    """One row an image; `verdicts[p]` are the outcomes of prompt p's images."""
    return [{"tag": task, "prompt": f"{task} {p}", "correct": verdict} for p, images in enumerate(verdicts) for verdict in images]


def coin(rng, prompts, rate, images=1):
    return [[bool(rng.random() < rate) for _ in range(images)] for _ in range(prompts)]


def half(score):
    return (score.high - score.low) / 2


def test_one_image_a_prompt_is_the_t_interval_of_a_mean():
    verdicts = [[index < 120] for index in range(400)]  # 0.3 of 400
    score = interval({0: rows("colors", verdicts)}, ["colors"])
    expected = stats.t.interval(0.95, 399, 0.3, sqrt(0.3 * 0.7 / 399))
    assert (score.estimate, score.low, score.high) == pytest.approx((0.3, *expected))
    assert (score.n, score.seeds) == (400, (0,))


def test_copies_of_a_verdict_within_a_prompt_add_no_certainty():
    verdicts = [[index < 30] for index in range(100)]
    one = interval({0: rows("colors", verdicts)}, ["colors"])
    eight = interval({0: rows("colors", [images * 8 for images in verdicts])}, ["colors"])
    assert (eight.low, eight.high) == pytest.approx((one.low, one.high), abs=1e-9)
    assert eight.n == 800


def test_prompts_crossed_with_seeds_by_hand():
    """Two rows, three prompts of unlike numbers of images, four seeds: sums in loops."""
    rng = np.random.default_rng(8)
    images, sides = (1, 3, 2), {row: {s: [[bool(rng.random() < 0.5) for _ in range(m)] for m in (1, 3, 2)] for s in range(4)}
                                for row in "ab"}  # fmt: skip
    ratio = {(row, s): sum(map(sum, side[s])) / 6 for row, side in sides.items() for s in range(4)}
    by_seed = [ratio["a", s] - ratio["b", s] for s in range(4)]
    parts = {
        (p, s): sum(sign * (sum(sides[row][s][p]) - ratio[row, s] * images[p]) / 6 for row, sign in (("a", 1), ("b", -1)))
        for p in range(3)
        for s in range(4)
    }
    prompts = 3 / 2 * sum((sum(parts[p, s] for s in range(4)) / 4) ** 2 for p in range(3))
    seeds = float(np.var(by_seed, ddof=1)) / 4
    both = 3 / 2 * sum(part**2 for part in parts.values()) / 4**2
    variance = max(prompts + seeds - both, prompts, seeds)
    freedom = variance**2 / (prompts**2 / 2 + seeds**2 / 3)
    a, b = ({s: rows("colors", verdicts) for s, verdicts in sides[row].items()} for row in "ab")
    measured = paired_difference(a, b, ["colors"])
    assert (measured.estimate, measured.error, measured.freedom) == pytest.approx((np.mean(by_seed), sqrt(variance), freedom))
    assert half(measured) == pytest.approx(stats.t.ppf(0.975, freedom) * sqrt(variance))
    assert (measured.n, measured.seeds) == (48, (0, 1, 2, 3))


def test_few_seeds_are_pooled_with_the_other_rows_of_the_table():
    """Each prompt the same, so that only seeds vary; the mean square of rows x seeds, by hand."""
    scores = {"a": (0.5, 0.52, 0.51), "b": (0.3, 0.32, 0.31), "c": (0.6, 0.7, 0.5), "d": (0.2, 0.15, 0.3)}
    column = ColumnItems(
        {row: {s: rows("colors", [[i < round(100 * x) for i in range(100)]] * 5) for s, x in enumerate(found)}
         for row, found in scores.items()}, ["colors"], "prompt",
    )  # fmt: skip
    weights = {"a": 1.0, "b": -1.0}
    found = np.array(list(scores.values()))
    residual = found - found.mean(1, keepdims=True) - found.mean(0) + found.mean()
    pooled = contrast([column], weights)
    assert pooled.error == pytest.approx(sqrt((residual**2).sum() / 6 * 2 / 3))
    assert pooled.freedom == pytest.approx(6)
    alone = contrast([ColumnItems({row: column.rows[row] for row in "ab"}, ["colors"], "prompt")], weights)
    assert alone.error == pytest.approx(0, abs=1e-9)
    c_less_d = contrast([column], {"c": 1.0, "d": -1.0})
    assert c_less_d.error == pytest.approx(np.std(found[2] - found[3], ddof=1) / sqrt(3)), "its own is the larger"
    more = ColumnItems({row: {**sides, 3: sides[0], 4: sides[1]} for row, sides in column.rows.items()}, ["colors"], "prompt")
    assert contrast([more], weights).error == pytest.approx(0, abs=1e-9), "five seeds speak for themselves"


def test_overall_weighs_tasks_equally_whatever_their_size():
    items = rows("colors", [[True]] * 90) + rows("counting", [[False]] * 10)
    score = interval({0: items}, ["colors", "counting"])
    assert (score.estimate, score.low, score.high) == (0.5, 0.5, 0.5)


def test_variance_over_tasks_adds_up():
    rng = np.random.default_rng(1)
    sizes = {"colors": 150, "counting": 60}
    verdicts = {task: coin(rng, size, 0.5) for task, size in sizes.items()}
    score = interval({0: [row for task in sizes for row in rows(task, verdicts[task])]}, list(sizes))
    shares = {task: np.mean(verdicts[task]) for task in sizes}
    expected = sqrt(sum(shares[task] * (1 - shares[task]) / (size - 1) for task, size in sizes.items())) / 2
    assert score.error == pytest.approx(expected)


def test_more_seeds_of_a_varying_training_widen_the_interval():
    same = {seed: rows("colors", [[index < 100] for index in range(200)]) for seed in range(3)}
    apart = {seed: rows("colors", [[index < 60 + 40 * seed] for index in range(200)]) for seed in range(3)}
    assert interval(apart, ["colors"]).estimate == interval(same, ["colors"]).estimate == 0.5
    assert interval(apart, ["colors"]).low < interval(same, ["colors"]).low - 0.05


def test_no_difference_is_zero_and_a_constant_one_is_certain():
    rng = np.random.default_rng(2)
    verdicts = coin(rng, 50, 0.5, images=2)
    same = paired_difference({0: rows("colors", verdicts)}, {0: rows("colors", verdicts)}, ["colors"])
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    better = [[True, False]] * 50
    worse = [[False, False]] * 50
    shift = paired_difference({0: rows("colors", better)}, {0: rows("colors", worse)}, ["colors"])
    assert (shift.estimate, shift.low, shift.high) == pytest.approx((0.5, 0.5, 0.5))
    assert shift.n == 200


def test_independent_equals_give_an_interval_around_zero():
    rng = np.random.default_rng(3)
    sides = [{0: rows("colors", coin(rng, 300, 0.5))} for _ in range(2)]
    difference = paired_difference(*sides, ["colors"])
    assert difference.low < 0 < difference.high


def test_pairing_narrows_the_interval_when_prompts_are_hard_for_both():
    hard = [[index % 2 == 0] * 4 for index in range(100)]
    slightly = [[index % 2 == 0 or index % 20 == 1] * 4 for index in range(100)]
    paired = paired_difference({0: rows("colors", slightly)}, {0: rows("colors", hard)}, ["colors"])
    apart = [interval({0: rows("colors", side)}, ["colors"]) for side in (slightly, hard)]
    unpaired = sqrt(sum((score.high - score.low) ** 2 for score in apart))
    assert paired.high - paired.low < unpaired / 2
    assert paired.estimate == pytest.approx(0.05)


def test_only_seeds_of_both_sides_are_compared():
    good, bad = rows("colors", [[True]] * 10), rows("colors", [[False]] * 10)
    difference = paired_difference({0: good, 1: bad}, {0: bad, 2: good}, ["colors"])
    assert (difference.estimate, difference.seeds, difference.n) == (1.0, (0,), 20)
    with pytest.raises(UserError, match="no seed in common"):
        paired_difference({0: good}, {1: bad}, ["colors"])


def test_unscored_images_count_nowhere_and_a_task_without_any_is_refused():
    items = rows("colors", [[True, None], [False, False]])
    score = interval({0: items}, ["colors"])
    assert (score.estimate, score.n) == (pytest.approx(1 / 3), 3)
    assert unique_prompts({0: items}, "colors") == 2
    with pytest.raises(UserError, match=r"seed 0.*counting"):
        interval({0: items}, ["colors", "counting"])


def test_the_order_of_rows_does_not_matter_and_the_result_repeats():
    items = rows("colors", coin(np.random.default_rng(4), 40, 0.4, images=3))
    assert interval({0: items}, ["colors"]) == interval({0: items[::-1]}, ["colors"]) == interval({0: items}, ["colors"])


def column(task, **sides):
    """One column, one seed; `sides[row][p]` is the only outcome of cluster p."""
    return ColumnItems({row: {0: rows(task, [[bool(v)] for v in verdicts])} for row, verdicts in sides.items()}, [task], "prompt")


def test_a_contrast_of_rows_and_columns_is_the_mean_of_the_columns():
    """Difference of differences of four rows over two columns of unlike size; with one seed variances add up."""
    weights = {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}
    rng = np.random.default_rng(5)
    columns = [
        ColumnItems({row: {0: rows(task, coin(rng, size, 0.5, 2))} for row in weights}, [task], "prompt")
        for task, size in (("colors", 30), ("counting", 12))
    ]
    apart = [contrast([column], weights) for column in columns]
    measured = contrast(columns, weights)
    assert measured.estimate == pytest.approx(np.mean([one.estimate for one in apart]))
    assert measured.error == pytest.approx(sqrt(sum(one.error**2 for one in apart)) / 2)
    assert measured.n == 4 * 2 * (30 + 12)


def test_a_mean_over_columns_weighs_them_equally_and_clusters_by_its_field():
    three_a_question = [{"tag": "word", "question_id": i // 3, "prompt": "same", "correct": i < 15} for i in range(30)]
    once = [{"tag": "chart", "question_id": i, "prompt": "same", "correct": False} for i in range(4)]
    both = [ColumnItems({"x": {0: items}}, [items[0]["tag"]], "question_id") for items in (three_a_question, once)]
    score = contrast(both, {"x": 1.0})
    one_a_question = [{**row, "correct": row["question_id"] < 5} for row in three_a_question[::3]]
    alone = interval({0: one_a_question}, ["word"], "question_id")
    assert (score.estimate, score.error, score.freedom) == pytest.approx((0.25, alone.error / 2, alone.freedom))
    with pytest.raises(UserError, match="no seed in common"):
        contrast([both[0], ColumnItems({"x": {1: once}}, ["chart"], "question_id")], {"x": 1.0})


def test_an_interval_ends_where_scores_do():
    few = interval({0: rows("colors", [[True], [True], [False]])}, ["colors"])
    assert (few.low, few.high) == (0, 1)
    assert few.not_below(1) > 0.025
    less = paired_difference(
        {0: rows("colors", [[True], [False], [False]])}, {0: rows("colors", [[False], [False], [True]])}, ["colors"]
    )
    assert (less.low, less.high) == (-1, 1)


def test_p_values_are_those_of_the_t_distribution():
    measured = Interval(0.1, 0.05, 7, 10, (0, 1))
    assert measured.not_above(0) == pytest.approx(stats.t.sf(2, 7))
    assert measured.not_below(0) == pytest.approx(stats.t.cdf(2, 7))
    assert measured.not_above(measured.low) == pytest.approx(0.025)
    assert measured.not_below(measured.high) == pytest.approx(0.025)
    certain = Interval(0.1, 0.0, inf, 10, (0,))
    assert [certain.not_above(b) for b in (0.05, 0.1, 0.2)] == [0, 1, 1]
    assert [certain.not_below(b) for b in (0.05, 0.1, 0.2)] == [1, 1, 0]


def test_holm_by_hand():
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def world(rng, num_rows, num_seeds, spread, common=0.02):
    """A table as training at `tiny` gives it: rows of one true score; seeds with effects on rows and on all; hard prompts."""
    by_row = rng.normal(size=(num_rows, num_seeds)) * np.broadcast_to(spread, (num_rows,))[:, None]
    by_row += rng.normal(size=(1, num_seeds)) * common
    columns = []
    for task, prompts in (("colors", 10), ("counting", 16), ("position", 24)):
        hard, own = rng.normal(size=(1, 1, prompts)) * 0.25, rng.normal(size=(num_rows, 1, prompts)) * 0.15
        right = rng.binomial(2, np.clip(0.5 + by_row[:, :, None] + hard + own, 0, 1))
        columns.append((task, right))
    return ColumnItems(
        {
            str(row): {
                seed: [{"tag": task, "prompt": p, "correct": float(right[row, seed, p]) / 2}
                       for task, right in columns for p in range(right.shape[2])]
                for seed in range(num_seeds)
            }
            for row in range(num_rows)
        },
        [task for task, _ in columns], "prompt",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("spread", [0.0, 0.026, 0.06], ids=["no seed noise", "as measured", "twice as measured"])
def test_intervals_cover_and_rarely_claim_what_is_not(num_seeds, spread):
    """A difference that is none: at least .93 of intervals hold 0, at most .03 lie above it, with the simulation's error."""
    rng, count = np.random.default_rng(round(1000 * spread) + num_seeds), 400
    found = [contrast([world(rng, 4, num_seeds, spread)], {"0": 1.0, "1": -1.0}) for _ in range(count)]
    assert sum(one.low <= 0 <= one.high for one in found) / count >= 0.93 - 2 * sqrt(0.93 * 0.07 / count)
    assert sum(one.low > 0 for one in found) / count <= 0.03 + 2 * sqrt(0.03 * 0.97 / count)


@pytest.mark.slow
def test_intervals_are_not_far_too_wide():
    rng = np.random.default_rng(11)
    found = [contrast([world(rng, 4, 5, 0.026)], {"0": 1.0, "1": -1.0}) for _ in range(300)]
    true = np.std([one.estimate for one in found])
    assert np.median([half(one) for one in found]) < 1.35 * 1.96 * true


@pytest.mark.slow
def test_a_row_that_varies_more_than_the_others_is_still_covered():
    rng, count = np.random.default_rng(12), 400
    for num_seeds, least in ((3, 0.90), (5, 0.93)):
        found = [contrast([world(rng, 4, num_seeds, [0.06, 0.01, 0.01, 0.01])], {"0": 1.0, "1": -1.0}) for _ in range(count)]
        assert sum(one.low <= 0 <= one.high for one in found) / count >= least - 2 * sqrt(0.07 * 0.93 / count)


@pytest.mark.parametrize(("ahead", "columns"), [(5, 1), (5, 8), (9, 8), (2, 3)])
def test_columns_won_for_certain_in_closed_form(ahead, columns):
    """Better leads in `ahead` of ten clusters and ties in the rest: t = 3 sqrt(share / (1 - share)), nine degrees."""
    better, worse = [p < ahead for p in range(10)], [False] * 10
    share = ahead / 10
    p = stats.t.sf(3 * sqrt(share / (1 - share)), 9)
    certain = columns if p * columns <= 0.025 else 0  # all alike: Holm's first step decides all
    won = columns_won([column(f"task {c}", x=better, y=worse) for c in range(columns)], "x", "y")
    assert (won.estimate, won.low, won.high) == (columns, certain, columns)
    assert won.fewer_than(columns) == pytest.approx(min(1, p * columns))
    lost = columns_won([column(f"task {c}", x=worse, y=better) for c in range(columns)], "x", "y")
    assert (lost.estimate, lost.low, lost.high) == (0, 0, columns - certain)
    assert lost.at_least(1) == pytest.approx(min(1, p * columns))
    assert won.n == 20 * columns


def test_wins_losses_and_ties_are_counted_apart():
    yes, no = [True] * 12, [False] * 12
    columns = [column("a", x=yes, y=no), column("b", x=no, y=yes), column("c", x=yes, y=no), column("d", x=yes, y=yes)]
    won = columns_won(columns, "x", "y")
    assert (won.estimate, won.low, won.high) == (2, 2, 3)  # a tie may be either
    assert [won.fewer_than(k) for k in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 1]
    assert [won.at_least(k) for k in (0, 1, 2, 3, 4)] == [1, 1, 1, 1, 0]


@pytest.mark.slow
def test_chance_wins_are_claimed_within_the_level_where_counting_claims_far_more():
    """Three columns in which neither row is truly ahead: how often is at least one win claimed?"""
    rng = np.random.default_rng(7)
    by_holm = by_counts = 0
    for _ in range(300):
        columns = [column(f"task {c}", x=rng.random(40) < 0.5, y=rng.random(40) < 0.5) for c in range(3)]
        by_holm += columns_won(columns, "x", "y").low >= 1
        by_counts += any(contrast([one], {"x": 1.0, "y": -1.0}).low > 0 for one in columns)
    assert by_holm / 300 <= 0.025 + 2 * sqrt(0.025 * 0.975 / 300)
    assert by_counts / 300 > 0.05
