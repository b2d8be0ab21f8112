"""Table 1 (paper Sec. 4.2): RF-Pixel beside other groups' systems, at the largest size that it draws.

The one run that goes on through all stages of a scale: at `base` and `paper` it continues Table 3a's Pixel+RF from 256 to 1,024
px. Where `joint` is the last stage, as at `tiny`, it is that run.

Other systems are not trained here: their images are scored where a folder of them is there, on photographs alone.

Command:  rf-repro reproduce --tables table1
Run time: at `tiny` no run beyond Table 3a's.
"""

from dataclasses import dataclass

from ablations.grid import GENEVAL, AblationGrid
from ablations.variants import PIXEL_RF


@dataclass(frozen=True)
class System:
    """Another group's model: `key` names its records' directory and its row of the published table, `label` is printed."""

    key: str
    label: str


SYSTEMS = (
    System("bagel", "BAGEL"),
    System("janus_pro", "Janus-Pro-7B"),
    System("show_o2", "Show-o2"),
    System("blip3o", "BLIP3-o"),
    System("transfusion", "Transfusion"),
)

TABLE1 = AblationGrid(
    name="table1",
    title="Table 1",
    caption="RF-Pixel beside other groups' systems",
    section="Sec. 4.2",
    base="pixel_rf",
    rows=(PIXEL_RF.labelled("RF-Pixel"),),
    columns=(GENEVAL,),
    seeds=(0,),
    last_stage=None,
)
