"""Learning curves and the scores at equal budgets, by hand."""

from pathlib import Path

import pytest

from ablations.grid import GENEVAL
from reports.curves import Point, curve, equal_budget
from reports.runs import Run
from tests.reports.runs import make_items, write_curve, write_geneval, write_metrics, write_run


def line(*points):
    return [Point(step, seconds, score, 10, "p", Path("x")) for step, seconds, score in points]


def test_a_curve_ends_in_the_final_score_and_knows_the_compute_spent(tmp_path):
    run = write_run(tmp_path, "pixel", 0)
    write_metrics(run, [10, 20, 30], seconds_a_step=0.5, codebook=False)
    write_metrics(run, [20], seconds_a_step=0.6, codebook=False)  # a resumed run logs a step again: the later row stands
    write_curve(run, {15: 0.25, 30: 0.0})
    write_geneval(run, make_items(lambda task, index, sample: index == 0))
    points = curve(Run(run, run.record()), GENEVAL)
    assert [(p.step, p.score, p.n) for p in points] == [(15, 0.25, 12), (30, 0.25, 48)]
    assert [p.seconds for p in points] == pytest.approx([8.5, 15.0])  # halfway between 5 s and 12 s; 30 steps at 0.5 s
    assert points[-1].record == run.evals / "geneval.json"


def test_without_metrics_there_are_steps_and_no_compute(tmp_path):
    run = write_run(tmp_path, "pixel", 0)
    write_curve(run, {15: 0.25})
    assert [(p.step, p.seconds) for p in curve(Run(run, run.record()), GENEVAL)] == [(15, None)]


def test_equal_steps_and_equal_compute_differ_when_a_step_costs_more():
    curves = {
        "pixel": {0: line((10, 10.0, 0.1), (20, 20.0, 0.3))},
        "pixel_rf": {0: line((10, 15.0, 0.4), (20, 30.0, 0.7)), 1: line((10, 15.0, 0.2), (20, 30.0, 0.5))},
    }
    steps, compute = equal_budget(curves, "step"), equal_budget(curves, "seconds")
    assert steps is not None
    assert compute is not None
    assert (steps.budget, steps.scores) == (20, {"pixel": 0.3, "pixel_rf": pytest.approx(0.6)})
    assert (compute.budget, compute.scores) == (20, {"pixel": 0.3, "pixel_rf": pytest.approx(0.3 + 0.3 / 3)})


def test_no_common_budget_no_comparison():
    early, late = line((10, None, 0.1)), line((20, None, 0.1))
    assert equal_budget({"a": {0: early}, "b": {0: late}}, "step") is None
    assert equal_budget({"a": {0: early}, "b": {0: early}}, "seconds") is None
    assert equal_budget({"a": {0: early}, "b": {}}, "step") is None
    assert equal_budget({"a": {0: early}, "b": {0: []}}, "step") is None
