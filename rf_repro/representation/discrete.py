"""Discrete representation tokens, which are RF: codes in and out of the decoder (paper Sec. 3.2), codes as targets (Sec. 3.1).

B samples, N tokens or features, D decoder width, K codes, F feature width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.representation_schema import RepresentationConfig
from rf_repro.config.schema import SamplingConfig
from rf_repro.config.training_schema import ObjectiveConfig
from rf_repro.maths.noise import uniforms
from rf_repro.maths.schedule import guide, sample_top_k
from rf_repro.representation.targets import Targets
from rf_repro.representation.tokens import ALL_ROWS, RepresentationTokens
from rf_repro.representation.vq import OnlineVQ, usage_and_perplexity


class DiscreteTokens(RepresentationTokens):
    """Codes: identities from a table of K, next-token cross-entropy, top-k sampling. This is RF (Sec. 3.2)."""

    def __init__(self, width: int, codebook_size: int, grid: int, extent: float, norm_eps: float) -> None:
        super().__init__(width, grid, extent, norm_eps)
        self.identity = nn.Embedding(codebook_size, width)
        self.head = nn.Linear(width, codebook_size)

    def predict(self, hidden: Tensor) -> Tensor:
        """Next-token logits, [..., D] -> [..., K]."""
        return self.head(self.norm(hidden))

    def loss(
        self,
        predicted: Tensor,
        values: Tensor,
        dropped: Tensor,
        objective: ObjectiveConfig,
        generator: torch.Generator,
        rows: slice = ALL_ROWS,
    ) -> tuple[Tensor, Tensor]:
        targets = values.masked_fill(dropped[rows, None].to(values.device), -100)
        total = F.cross_entropy(predicted.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        return total, (targets != -100).sum()

    def loss_count(self, values: Tensor, dropped: Tensor) -> int:
        return int((~dropped).sum()) * values.shape[1]

    def zeros(self, count: int, length: int) -> Tensor:
        return torch.zeros(count, length, dtype=torch.int64, device=self.start.device)

    def randomness(self, seeds_B: Tensor, count: int) -> Tensor:
        return uniforms(seeds_B, count)

    def draw(self, conditional: Tensor, unconditional: Tensor | None, random: Tensor, sampling: SamplingConfig) -> Tensor:
        logits = conditional.float()
        if unconditional is not None:
            logits = guide(logits, unconditional.float(), sampling.cfg_representation)
        return sample_top_k(logits, sampling.top_k, random)


class CodebookTargets(Targets):
    """The code of each feature, by a codebook that follows the features."""

    def __init__(self, config: RepresentationConfig, feature_dim: int) -> None:
        super().__init__()
        self.vq = OnlineVQ(config, feature_dim)
        self.num_codes, self.warm_up_batches = config.codebook_size, config.warmup_batches
        self.warm_up_momentum = config.warmup_momentum
        self._recent: list[Tensor] = []

    def initialise(self, features: Tensor, generator: torch.Generator) -> None:
        self.vq.initialise(features, generator)

    def warm_up(self, features: Tensor, ranks: Ranks) -> None:
        self.vq.update(features, self.vq.assign(features, ranks), self.warm_up_momentum, ranks)

    def assign(self, features: Tensor, ranks: Ranks = ALONE) -> Tensor:
        codes = self.vq.assign(features, ranks)
        self.vq.update(features, codes, ranks=ranks)
        self._recent.append(codes)
        return codes

    def values(self, features: Tensor) -> Tensor:
        return self.vq.assign(features)

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Share of codes used, and perplexity."""
        codes, self._recent = torch.cat(self._recent), []
        usage, perplexity = usage_and_perplexity(codes, self.num_codes, ranks)
        return {"codebook/usage": usage, "codebook/perplexity": perplexity}
