"""The bootstrap against closed forms and against exhaustive enumeration."""

from itertools import product
from math import sqrt

import numpy as np
import pytest

from reports import statistics
from reports.statistics import ColumnItems, columns_won, contrast, interval, paired_difference, unique_prompts
from rf_repro.core.errors import UserError


def rows(task, verdicts):
    """One row an image; `verdicts[p]` are the outcomes of prompt p's images."""
    return [{"tag": task, "prompt": f"{task} {p}", "correct": verdict} for p, images in enumerate(verdicts) for verdict in images]


def coin(rng, prompts, rate, images=1):
    return [[bool(rng.random() < rate) for _ in range(images)] for _ in range(prompts)]


def test_one_image_a_prompt_is_the_binomial_interval():
    verdicts = [[index < 120] for index in range(400)]  # 0.3 of 400
    score = interval({0: rows("colors", verdicts)}, ["colors"])
    half = 1.96 * sqrt(0.3 * 0.7 / 400)
    assert score.estimate == pytest.approx(0.3)
    assert (score.low, score.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)
    assert (score.n, score.seeds) == (400, (0,))


def test_copies_of_a_verdict_within_a_prompt_add_no_certainty():
    verdicts = [[index < 30] for index in range(100)]
    one = interval({0: rows("colors", verdicts)}, ["colors"])
    eight = interval({0: rows("colors", [images * 8 for images in verdicts])}, ["colors"])
    assert (eight.low, eight.high) == pytest.approx((one.low, one.high), abs=1e-9)
    assert eight.n == 800


def test_three_prompts_and_two_seeds_match_every_possible_resample():
    seeds = {0: [[True, False], [True, True], [False]], 1: [[False, False], [True, False], [True]]}
    values = []
    for drawn in product(range(3), repeat=3):
        by_seed = [[verdict for p in drawn for verdict in seeds[s][p]] for s in (0, 1)]
        means = [sum(verdicts) / len(verdicts) for verdicts in by_seed]
        values += [(means[a] + means[b]) / 2 for a, b in product((0, 1), repeat=2)]
    score = interval({seed: rows("colors", verdicts) for seed, verdicts in seeds.items()}, ["colors"])
    exact = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    assert (score.low, score.high) == pytest.approx(tuple(exact), abs=1e-9)
    assert score.estimate == pytest.approx((3 / 5 + 2 / 5) / 2)


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
    half = 1.96 * sqrt(sum(shares[task] * (1 - shares[task]) / size for task, size in sizes.items())) / 2
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.06)


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


def test_a_contrast_of_rows_and_columns_matches_every_possible_resample():
    """Difference of differences of four rows, mean over two columns of unlike size, two seeds."""
    weights = {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}
    rng = np.random.default_rng(5)
    outcomes = {(row, seed): (rng.random((2, 3)) < 0.5, rng.random((2, 2)) < 0.5) for row in weights for seed in (0, 1)}
    columns = [
        ColumnItems({row: {seed: rows(task, outcomes[row, seed][c].T.tolist()) for seed in (0, 1)} for row in weights}, [task],
                    "prompt")
        for c, task in enumerate(("colors", "counting"))
    ]  # fmt: skip

    def score(row, seed, drawn):
        return np.mean([outcomes[row, seed][c][:, list(prompts)].mean() for c, prompts in enumerate(drawn)])

    values = []
    for drawn in product(product(range(3), repeat=3), product(range(2), repeat=2)):
        by_seed = [sum(weight * score(row, seed, drawn) for row, weight in weights.items()) for seed in (0, 1)]
        values += [(by_seed[s] + by_seed[t]) / 2 for s, t in product((0, 1), repeat=2)]
    measured = contrast(columns, weights)
    everything = [range(3), range(2)]
    estimate = np.mean([[weight * score(row, seed, everything) for row, weight in weights.items()] for seed in (0, 1)]) * 4
    assert measured.estimate == pytest.approx(estimate)
    exact = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    assert (measured.low, measured.high) == pytest.approx(tuple(exact), abs=1e-9)
    assert (measured.n, measured.seeds) == (4 * 2 * (6 + 4), (0, 1))


def test_a_mean_over_columns_weighs_them_equally_and_clusters_by_its_field():
    three_a_question = [{"tag": "word", "question_id": i // 3, "prompt": "same", "correct": i < 15} for i in range(30)]
    once = [{"tag": "chart", "question_id": i, "prompt": "same", "correct": False} for i in range(4)]
    both = [ColumnItems({"x": {0: items}}, [items[0]["tag"]], "question_id") for items in (three_a_question, once)]
    score = contrast(both, {"x": 1.0})
    one_a_question = [{**row, "correct": row["question_id"] < 5} for row in three_a_question[::3]]
    alone = interval({0: one_a_question}, ["word"], "question_id")
    assert (score.estimate, score.low, score.high) == pytest.approx((0.25, alone.low / 2, alone.high / 2))
    with pytest.raises(UserError, match="no seed in common"):
        contrast([both[0], ColumnItems({"x": {1: once}}, ["chart"], "question_id")], {"x": 1.0})


def test_the_interval_of_a_difference_covers_a_known_truth(monkeypatch):
    """Clusters of three alike items, two rows of true rates .5 and .4 on the same clusters: 95% of intervals hold .1."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        hardness = rng.random(60)
        sides = [
            {0: rows("colors", [[bool(h < rate)] * 2 + [bool(rng.random() < rate)] for h in hardness])} for rate in (0.5, 0.4)
        ]
        difference = paired_difference(*sides, ["colors"])
        covered += difference.low <= 0.1 <= difference.high
    assert 0.92 <= covered / 400 <= 0.975


@pytest.mark.parametrize(("ahead", "columns", "certain"), [(3, 1, 0), (4, 1, 1), (4, 4, 4), (4, 5, 0), (5, 5, 5), (10, 8, 8)])
def test_columns_won_for_certain_in_closed_form(ahead, columns, certain):
    """Better leads in `ahead` of ten clusters and ties in the rest: a resample misses all with chance (1 - ahead/10)^10.

    That is .028, .0060 and .00098 for 3, 4 and 5; Holm's first step needs .025 / columns.
    """
    better, worse = [p < ahead for p in range(10)], [False] * 10
    won = columns_won([column(f"task {c}", x=better, y=worse) for c in range(columns)], "x", "y")
    assert (won.estimate, won.low, won.high) == (columns, certain, columns)
    lost = columns_won([column(f"task {c}", x=worse, y=better) for c in range(columns)], "x", "y")
    assert (lost.estimate, lost.low, lost.high) == (0, 0, columns - certain)
    assert won.n == 20 * columns


def test_wins_losses_and_ties_are_counted_apart():
    yes, no = [True] * 12, [False] * 12
    columns = [column("a", x=yes, y=no), column("b", x=no, y=yes), column("c", x=yes, y=no), column("d", x=yes, y=yes)]
    won = columns_won(columns, "x", "y")
    assert (won.estimate, won.low, won.high) == (2, 2, 3)  # a tie may be either


@pytest.mark.slow
def test_chance_wins_are_claimed_within_the_level_where_resampled_counts_claim_far_more(monkeypatch):
    """Three columns in which neither row is truly ahead: how often is at least one win claimed?"""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng = np.random.default_rng(7)
    by_holm = by_counts = 0
    for _ in range(200):
        columns = [column(f"task {c}", x=rng.random(40) < 0.5, y=rng.random(40) < 0.5) for c in range(3)]
        by_holm += columns_won(columns, "x", "y").low >= 1
        resampled = statistics._bootstrap(columns, {"x": 1.0, "y": -1.0}).contrasts_BC
        by_counts += np.quantile((resampled > 0).sum(1), 0.025) >= 1
    assert by_holm / 200 <= 0.06  # .025, and the simulation's error
    assert by_counts / 200 > 0.15
