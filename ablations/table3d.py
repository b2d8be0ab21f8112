"""Table 3d (paper Sec. 4.4): the size K of the codebook, as multiples of the scale's own.

The paper has K = 16,384 and twice that; the sweep around them is this project's. At `tiny`, K = 512.

Command:  rf-repro reproduce --tables table3d
Run time: four runs beyond Table 3a's.
"""

from ablations.grid import GENEVAL, AblationGrid
from ablations.variants import PIXEL_RF, codebook

TABLE3D = AblationGrid(
    name="table3d",
    title="Table 3d",
    caption="Pixel+RF with other codebook sizes, as multiples of the scale's K: 16,384 at paper, 512 at tiny, 32 at smoke",
    section="Sec. 4.4",
    base="pixel_rf",
    rows=(
        codebook("pixel_rf_k_quarter", "K/4", 1, 4),
        codebook("pixel_rf_k_half", "K/2", 1, 2),
        PIXEL_RF.labelled("K"),
        codebook("pixel_rf_k_double", "2K", 2),
        codebook("pixel_rf_k_quadruple", "4K", 4),
    ),
    columns=(GENEVAL,),
    seeds=(0,),
)
