"""What a scored folder of images shows beyond its score: intervals, kinds of failure, confusions, and two folders side by side.

Rows are the items of a GenEval result, one an image: prompt_id, sample, tag, prompt, correct (None: not scored), reason, failure,
colors (class, asked, seen) and decisive (class, or "not" class -> score of the object on which its count hangs).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.browser import KINDS
from reports.statistics import interval, paired_difference
from reports.tables import Table, show
from rf_repro.core.errors import UserError

NEAR = 0.05  # of a threshold: a score this close to it might have fallen on the other side
Rows = Sequence[Mapping[str, Any]]


def score_table(rows: Rows, tasks: Sequence[str]) -> Table:
    """Each task's score and the unweighted mean over tasks, with intervals over prompts.

    Raises:
        UserError: a task has no scored image.
    """
    scored = [row for row in rows if row["correct"] is not None]
    found = {task: interval({0: rows}, [task], "prompt_id") for task in tasks}
    found["overall"] = interval({0: rows}, tasks, "prompt_id")
    images = Counter(row["tag"] for row in scored)
    right = Counter(row["tag"] for row in scored if row["correct"])
    images["overall"], right["overall"] = len(scored), sum(right.values())
    return Table(
        name="scores",
        title="GenEval",
        caption="95% intervals over prompts. Overall is the unweighted mean over tasks.",
        header=("Task", "Correct", "Images", "Score"),
        rows=tuple((_plain(task), f"{right[task]:,}", f"{images[task]:,}", show(score)) for task, score in found.items()),
        records=tuple(
            {
                "task": task,
                "correct": right[task],
                "images": images[task],
                "score": score.estimate,
                "low": score.low,
                "high": score.high,
            }
            for task, score in found.items()
        ),
    )


def failure_table(rows: Rows, tasks: Sequence[str], thresholds: Mapping[str, float]) -> Table:
    """What goes wrong, by task: the first unmet clause of each wrong image, and how many hang on a score near the threshold.

    Args:
        thresholds: task -> score that an object has to exceed to count.
    """
    kinds = [kind for kind in KINDS if kind != "unreadable"]
    counts = Counter((row["tag"], row["failure"]) for row in rows if row["correct"] is False)
    near = Counter(row["tag"] for row in rows if row["correct"] is False and nearly_right(row, thresholds[row["tag"]]))
    wrong = Counter(row["tag"] for row in rows if row["correct"] is False)
    return Table(
        name="failures",
        title="What goes wrong",
        caption=f"Wrong images by their first unmet clause. Near: a count hangs on a score within {NEAR} of the threshold.",
        header=("Task", "Wrong", *(KINDS[kind].capitalize() for kind in kinds), "Near"),
        rows=tuple(
            (_plain(task), f"{wrong[task]:,}", *(f"{counts[task, kind]:,}" for kind in kinds), f"{near[task]:,}")
            for task in tasks
        ),
        records=tuple({"task": task, "kind": kind, "images": counts[task, kind]} for task in tasks for kind in kinds),
    )


def nearly_right(row: Mapping[str, Any], threshold: float) -> bool:
    """Whether the image lacks an object, or has one too many, by a score within `NEAR` of the threshold."""
    if row["failure"] not in ("missing_object", "extra_object"):
        return False
    margins = {name: score - threshold for name, score in row["decisive"].items() if score is not None}
    missing = any(-NEAR <= margin <= 0 for name, margin in margins.items() if not name.startswith("not "))
    extra = any(0 < margin <= NEAR for name, margin in margins.items() if name.startswith("not "))
    return missing or extra


def color_confusion(rows: Rows) -> Table | None:
    """Colours asked for against colours seen, over all objects whose colour was judged; None when there is none."""
    pairs = Counter((asked, seen) for row in rows for _, asked, seen in row["colors"])
    return _confusion("colors", "Colours", "objects whose colour was judged", pairs)


def position_confusion(rows: Rows) -> Table | None:
    """Relations asked for against relations found, of the images where both objects were there; None when there is none."""
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for line in (row["reason"] or "").split("\n"):
            told = re.fullmatch(r"expected .* (left of|right of|above|below) target, found (.*) target", line)
            if told:
                pairs[told[1], told[2].strip() or "none"] += 1
    return _confusion("positions", "Positions", "images where the relation was wrong", pairs)


def _confusion(name: str, title: str, of: str, pairs: Mapping[tuple[str, str], int]) -> Table | None:
    if not pairs:
        return None
    asked, seen = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    return Table(
        name=name,
        title=f"{title}: asked against seen",
        caption=f"Number of {of}. A row is what the prompt asked for, a column what was seen.",
        header=("Asked", *seen),
        rows=tuple((one, *(str(pairs.get((one, other), "")) for other in seen)) for one in asked),
        records=tuple({"asked": one, "seen": other, "count": count} for (one, other), count in sorted(pairs.items())),
    )


def comparison_table(first: Rows, second: Rows, tasks: Sequence[str], names: tuple[str, str]) -> Table:
    """Two folders on the same prompts: scores, difference with its paired interval, and prompts on which one does better.

    Raises:
        UserError: they hold other prompts, or a task has no scored image.
    """
    if {(row["tag"], row["prompt"]) for row in first} != {(row["tag"], row["prompt"]) for row in second}:
        raise UserError(f"{names[0]} and {names[1]}: other prompts; only results on the same prompts can be compared")
    lines, records = [], []
    for label, chosen in [*((task, [task]) for task in tasks), ("overall", list(tasks))]:
        one, two = (interval({0: rows}, chosen, "prompt_id") for rows in (first, second))
        difference = paired_difference({0: second}, {0: first}, chosen, "prompt_id")
        lost, won = _flips(first, second, chosen)
        lines.append(
            (_plain(label), f"{one.estimate:.3f}", f"{two.estimate:.3f}", show(difference, signed=True), str(won), str(lost))
        )
        records.append({"task": label, "first": one.estimate, "second": two.estimate, "difference": difference.estimate,
                        "low": difference.low, "high": difference.high, "better": won, "worse": lost})  # fmt: skip
    return Table(
        name="comparison",
        title=f"{names[1]} against {names[0]}",
        caption="95% intervals over prompts, paired. Better, worse: prompts with more, fewer images right.",
        header=("Task", names[0], names[1], "Difference", "Better", "Worse"),
        rows=tuple(lines),
        records=tuple(records),
    )


def _flips(first: Rows, second: Rows, tasks: Sequence[str]) -> tuple[int, int]:
    """Prompts of which the second has (fewer, more) images right."""
    change: Counter[int] = Counter()
    for sign, rows in ((-1, first), (1, second)):
        for row in rows:
            if row["tag"] in tasks:
                change[row["prompt_id"]] += sign * bool(row["correct"])
    return sum(value < 0 for value in change.values()), sum(value > 0 for value in change.values())


def _plain(task: str) -> str:
    return task.replace("_", " ")
