"""Table 3b (paper Sec. 4.4): the encoder's features as an alignment target (REPA) or as tokens predicted first (RF).

Command:  rf-repro reproduce --tables table3b
Run time: one run beyond Table 3a's.
"""

from ablations.grid import GENEVAL, AblationGrid
from ablations.variants import PIXEL, PIXEL_RF, REPA

TABLE3B = AblationGrid(
    name="table3b",
    title="Table 3b",
    caption="How pixel generation uses the encoder's features: not at all, by alignment, or as tokens predicted first",
    section="Sec. 4.4",
    base="pixel",
    rows=(PIXEL.labelled("None (Pixel)"), REPA, PIXEL_RF.labelled("RF (Pixel+RF)")),
    columns=(GENEVAL,),
    seeds=(0,),
)
