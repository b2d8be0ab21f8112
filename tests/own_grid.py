"""A file with a grid of a user's own, as tests write it."""

from pathlib import Path

TEXT = '''"""Another weight of text, beside the paper's."""

from ablations.claims import Claim, Difference
from ablations.grid import GENEVAL, AblationGrid, Variant
from ablations.variants import PIXEL

MINE = Variant("heavier_text", "Heavier text", {"stages.joint.text_weight": 0.2})

TEXTS = AblationGrid(
    name="texts",
    title="Texts of mine",
    caption="Weights of text",
    section="",
    base="pixel",
    rows=(PIXEL, MINE),
    columns=(GENEVAL,),
    seeds=(0,),
)

LIGHTER = Difference("pixel", "heavier_text")
CLAIMS = (Claim("text_matters", "Lighter text beats heavier text", "texts", "", ("geneval",), LIGHTER),)
'''


def write_own_grid(folder: Path, *changes: tuple[str, str], name: str = "my_grid.py") -> str:
    """Writes the file, with each (old, new) text exchanged, and returns FILE.py:GRID."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    return f"{folder / name}:TEXTS"
