"""Table 3c (paper Sec. 4.4): representation tokens as features with a diffusion head, or as codes.

Command:  rf-repro reproduce --tables table3c
Run time: one run beyond Table 3a's.
"""

from ablations.grid import GENEVAL, AblationGrid
from ablations.variants import CONTINUOUS, PIXEL, PIXEL_RF

TABLE3C = AblationGrid(
    name="table3c",
    title="Table 3c",
    caption="Representation tokens before pixels: none, continuous features, discrete codes",
    section="Sec. 4.4",
    base="pixel",
    rows=(PIXEL.labelled("None (Pixel)"), CONTINUOUS, PIXEL_RF.labelled("Discrete (Pixel+RF)")),
    columns=(GENEVAL,),
    seeds=(0,),
)
