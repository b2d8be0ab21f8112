"""Table 3a (paper Sec. 4.4): the generation pathway, pixels or VAE latents, each without and with RF.

Command:  rf-repro reproduce                              (scale `tiny`, this table, training to report)
Run time: at `tiny` on one CPU core, about 6 minutes of training for Pixel and 8 for Pixel+RF a seed, after one shared
          first stage of 5 minutes; sampling and scoring add about a minute a run.
"""

from ablations.grid import GENEVAL, AblationGrid
from ablations.variants import PIXEL, PIXEL_RF, VAE, VAE_RF

TABLE3A = AblationGrid(
    name="table3a",
    title="Table 3a",
    caption="Generation pathway without and with RF: same architecture, data and steps",
    section="Sec. 4.4",
    base="pixel",
    rows=(PIXEL, PIXEL_RF, VAE, VAE_RF),
    columns=(GENEVAL,),
    seeds=(0,),
)
