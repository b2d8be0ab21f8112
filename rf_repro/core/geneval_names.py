"""Under which name a run keeps each of its GenEval results: images of another size, or of rewritten prompts, are another column.

Paper: Tables 3a to 3d are GenEval at 256 px, Table 1 at 1024 px, with the official prompts and with rewritten ones (Sec. 4).
"""

import re

TABLE_SIZE = 256  # pixels a side of the images behind Tables 3a to 3d
REWRITTEN = "bagel-long"  # the prompt set of Table 1's starred rows


def table_size(largest: int) -> int:
    """Pixels a side of the images that Tables 3a to 3d are read from, where a run learns to draw up to `largest`."""
    return min(TABLE_SIZE, largest)


def geneval_name(height: int, width: int, largest: int, prompt_set: str) -> str:
    """`geneval` is what Tables 3a to 3d read; others say how they differ: `geneval-1024`, `geneval-1024-bagel-long`.

    Args:
        height, width: of the images, pixels.
        largest: pixels of the longest side that the run learns to draw.
        prompt_set: as `evaluators.geneval.prompt_sets.identify` names it.
    """
    side = table_size(largest)
    size = "" if (height, width) == (side, side) else f"-{height}" if height == width else f"-{height}x{width}"
    return f"geneval{size}" + (f"-{REWRITTEN}" if prompt_set == REWRITTEN else "")


def is_sized(name: str) -> bool:
    """Whether `geneval_name` gives this name to images of another size, or of rewritten prompts."""
    return name != "geneval" and re.fullmatch(rf"geneval(-\d+(x\d+)?)?(-{REWRITTEN})?", name) is not None
