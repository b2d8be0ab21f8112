"""Under which name a run keeps each of its DPG-Bench results: another size, or another judge than mPLUG, is another number.

Paper: Table 1's last column is DPG at 1024 px, by mPLUG.
"""

import re

JUDGED = "-judge-"


def dpg_name(height: int, width: int, judge: str | None) -> str:
    """`dpg-1024` is mPLUG's; a judge's is `dpg-1024-judge-qwen3-vl-8b-instruct`.

    Args:
        height, width: of the images, pixels.
        judge: its name; None: mPLUG.
    """
    size = f"{height}" if height == width else f"{height}x{width}"
    return f"dpg-{size}" + ("" if judge is None else JUDGED + (re.sub(r"[^a-z0-9]+", "-", judge.lower()).strip("-") or "unnamed"))


def is_dpg(name: str) -> bool:
    """Whether `dpg_name` makes such names."""
    return re.fullmatch(rf"dpg-\d+(x\d+)?({JUDGED}[a-z0-9-]+)?", name) is not None
