"""The prompts that a drawing of an evaluation plan draws."""

from pathlib import Path
from typing import Any

from rf_repro.core.errors import UserError
from rf_repro.evaluations.actions import Drawing


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
