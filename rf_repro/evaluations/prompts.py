"""The prompts that an action of an evaluation plan draws, and the questions that it asks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.core.errors import UserError
from rf_repro.evaluations.actions import Drawing, Scoring

if TYPE_CHECKING:
    from evaluators.understanding.run import Asked


def prompt_rows(drawing: Drawing) -> list[dict[str, Any]]:
    """Metadata in GenEval's fields, an object a prompt.

    Raises:
        UserError: the set was not fetched, or the file is none of its kind.
    """
    match drawing.benchmark:
        case "geneval":
            from evaluators.geneval.prompt_sets import load

            return load(drawing.prompts)
        case "dpg":
            from evaluators.dpg import data

            return data.prompt_rows(data.load(own_file(drawing)))
        case "geneval2":
            from evaluators.geneval2.data import sampling_rows

            rows = sampling_rows(drawing.prompts)
            if rows is None:
                raise UserError(f"{drawing.prompts}: is no file of GenEval 2's schema; name one, or geneval2")
            return rows
    raise ValueError(f"benchmark={drawing.benchmark!r}: draws no prompts")


def own_file(drawing: Drawing) -> Path | None:
    """The file of prompts of the user's; None: the published set."""
    return None if drawing.prompts == drawing.benchmark else Path(drawing.prompts)


def questions(scoring: Scoring) -> "Asked":
    """A benchmark's questions. The plan names a folder for all benchmarks, in which each has its own.

    Raises:
        UserError: there are none, or the plan's protocol cannot ask them.
    """
    from evaluators.understanding.benchmarks import BENCHMARKS
    from evaluators.understanding.data import load_questions
    from evaluators.understanding.run import Asked, template_of

    benchmark = BENCHMARKS[scoring.benchmark]
    found = load_questions(benchmark, scoring.get("data"), alone=False, limit=scoring.get("limit"))
    template_of(benchmark, scoring.get("protocol"), found.rows[0])
    return Asked(benchmark, found)
