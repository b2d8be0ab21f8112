"""Table 3a (paper Sec. 4.4): the generation pathway, pixels or VAE latents, each without and with RF.

Command:  rf-repro reproduce                              (scale `tiny`, this table, training to report)
Run time: at `tiny` on one CPU core, about 6 minutes of training for Pixel and 8 for Pixel+RF a seed, after one shared
          first stage of 5 minutes; sampling and scoring add about a minute a run.

The rows here are the table's pixel column.
"""

from ablations.grid import GENEVAL, AblationGrid, Variant

PIXEL = Variant("pixel", "Pixel", {})
PIXEL_RF = Variant("pixel_rf", "Pixel+RF", {"representation.kind": "discrete"})

TABLE3A = AblationGrid(
    name="table3a",
    title="Table 3a",
    caption="Generation pathway without and with RF: same architecture, data and steps",
    section="Sec. 4.4",
    base="pixel",
    rows=(PIXEL, PIXEL_RF),
    columns=(GENEVAL,),
    seeds=(0,),
)
