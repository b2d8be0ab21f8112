"""Table 2 (paper Sec. 4.3): what a generation pathway, and RF in it, does to understanding.

Command:  rf-repro reproduce --tables table2
Run time: the four rows with generation are Table 3a's runs; VLM-only is the cheapest of the five.
"""

from ablations.grid import AblationGrid
from ablations.questions import BENCHMARKS, QUESTIONS
from ablations.variants import PIXEL, PIXEL_RF, VAE, VAE_RF, VLM_ONLY

TABLE2 = AblationGrid(
    name="table2",
    title="Table 2",
    caption="Understanding without and with a generation pathway: same understanding samples",
    section="Sec. 4.3",
    base="pixel",
    rows=(VLM_ONLY, VAE, VAE_RF, PIXEL, PIXEL_RF),
    columns=tuple(QUESTIONS.values()),
    real_columns=tuple(BENCHMARKS.values()),
    seeds=(0,),
)
