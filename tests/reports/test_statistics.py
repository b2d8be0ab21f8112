"""The bootstrap against closed forms and against exhaustive enumeration."""

from itertools import product
from math import sqrt

import numpy as np
import pytest

from reports.statistics import interval, paired_difference, unique_prompts
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
