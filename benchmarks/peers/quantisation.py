"""Online vector quantisation of a training step: 4,096 features to 8,192 codes of width 768, and codes that follow them.

ours                       OnlineVQ.assign and update: cosines, one Sinkhorn iteration over the batch (which the other does not
                           have), exact as in float64, and an average of the codes
vector-quantize-pytorch    VectorQuantize in training: cosines, the nearest code, and its average; without losses and gradients
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.contest import OURS, Contest, Entry, Row, Size, missing
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.representation.vq import OnlineVQ


def compare(size: Size, device: torch.device) -> list[Row]:
    N, K, D = size.features
    contest = Contest(f"online VQ, {N} features to {K} codes of {D}", "µs/feature", torch.float32, N, 1e6)
    features_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).to(device)
    entries, rows = [Entry(OURS, ours(features_ND, K))], []
    if why := missing("vector-quantize-pytorch"):
        rows.append(contest.left_out("vector-quantize-pytorch", why))
    else:
        entries.append(Entry("vector-quantize-pytorch", theirs(features_ND, K)))
    return contest.run(entries, device, size.repeats) + rows


def ours(features_ND: torch.Tensor, codebook_size: int) -> Callable[[], None]:
    vq = OnlineVQ(RepresentationConfig(kind="discrete", codebook_size=codebook_size), features_ND.shape[1]).to(features_ND.device)
    vq.initialise(features_ND, torch.Generator().manual_seed(0))
    return lambda: vq.update(features_ND, vq.assign(features_ND))


def theirs(features_ND: torch.Tensor, codebook_size: int) -> Callable[[], object]:
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    vq: Any = VectorQuantize(
        dim=features_ND.shape[1], codebook_size=codebook_size, use_cosine_sim=True, decay=0.9999, commitment_weight=0.0
    )
    vq = vq.to(features_ND.device).train()
    return torch.no_grad()(lambda: vq(features_ND[None]))
