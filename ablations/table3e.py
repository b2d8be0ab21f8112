"""Table 3e (paper Sec. 4.4): the understanding encoder, contrastive (SigLIP2) or self-supervised (DINOv3), in a VLM alone.

At `tiny` both encoders are small ViTs pretrained in-suite at equal cost; the probe of each is a gate of the claim. The paper's
DINOv3 row is Table 2's VLM-only.

Command:  rf-repro reproduce --tables table3e
Run time: two VLM-only runs, each after its own encoder and first stage.
"""

from ablations.grid import AblationGrid
from ablations.questions import BENCHMARKS, QUESTIONS
from ablations.variants import VLM_DINO, VLM_SIGLIP

TABLE3E = AblationGrid(
    name="table3e",
    title="Table 3e",
    caption="VLM-only with a contrastive and with a self-supervised encoder",
    section="Sec. 4.4",
    base="vlm_dino",
    rows=(VLM_SIGLIP.labelled("SigLIP-style"), VLM_DINO.labelled("DINO-style")),
    columns=tuple(QUESTIONS[kind] for kind in ("object", "existence", "color", "compare", "position")),
    real_columns=tuple(BENCHMARKS.values())[:5],
    seeds=(0,),
)
