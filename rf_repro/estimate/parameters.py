"""Parameters by part, from the model's own classes on the meta device: nothing is allocated, initialised or downloaded."""

import re
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.model.encoder import MaskedImageHead
from rf_repro.model.encoders import encoder_of
from rf_repro.model.layout import POOLS, Pool, SpanKind
from rf_repro.model.pools import owner
from rf_repro.model.rf_model import RFModel
from rf_repro.model.spaces import space_of
from rf_repro.representation.kinds import representation_of
from rf_repro.train.optim import is_block_matrix
from rf_repro.worlds import world_of

# The parts, and how a parameter's name in RFModel tells its part: the first expression that fits its beginning.
_NAMES = {
    "encoder": r"encoder\.",
    "alignment_projector": r"alignment\.",
    "representation_head": r"representation\.head\.",
    "norms": r".*norm",
    "text_embedding": r"text_embedding\.",
    "connector": r"connector\.",
    "image_position": r"image_position",
    "representation_in": r"representation\.",
    "time_embedding": r"pixels\.time\.",
    "pixel_head": r"pixels\.head\.",
    "pixel_in": r"pixels\.",
    "attention": r".*\.attention\.",
    "pool_understanding": r".*\.pools\.understanding\.",
    "pool_representation": r".*\.pools\.representation\.",
    "pool_pixel": r".*\.pools\.pixel\.",
    "time_modulation": r".*\.modulation\.",
    "text_head": r"text_head\.",
}

# What a token of each kind passes through; an image token stands for four of the encoder's patches.
_WAYS: dict[SpanKind, tuple[str, ...]] = {
    "text": ("text_embedding", "attention", "pool_understanding", "norms", "text_head"),
    "image": ("encoder", "connector", "image_position", "attention", "pool_understanding", "norms"),
    "representation": ("representation_in", "attention", "pool_representation", "norms", "representation_head"),
    "pixel": ("pixel_in", "time_embedding", "attention", "pool_pixel", "time_modulation", "norms", "pixel_head"),
}


@dataclass(frozen=True)
class Part:
    """Counts of parameters.

    Attributes:
        total: all.
        active: those that one token uses: of `num_experts` routed experts, `num_active_experts`.
        matmul: active ones in matrices, 2 FLOPs each and token, forward.
        block_matrices: of `total`, what Muon steps in a stage that has it.
    """

    total: int = 0
    active: int = 0
    matmul: int = 0
    block_matrices: int = 0

    def __add__(self, other: "Part") -> "Part":
        return Part(
            self.total + other.total, self.active + other.active, self.matmul + other.matmul,
            self.block_matrices + other.block_matrices,
        )  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """`parts` make the model. `beside` it are the EMA copy of the encoder, the codebook and the VAE, which no optimiser steps,
    and the masked-image head of `tiny`'s first stage, which is trained and thrown away."""

    parts: dict[str, Part]
    beside: dict[str, int]

    @property
    def total(self) -> int:
        """Of the model, as a run's record has it."""
        return sum(part.total for part in self.parts.values())

    @property
    def active(self) -> dict[SpanKind, int]:
        """Parameters that a token of each kind uses. Embeddings and heads count whole, as is usual."""
        kinds = [kind for kind, way in _WAYS.items() if way[0] in self.parts]
        return {kind: sum(self.parts[name].active for name in _WAYS[kind] if name in self.parts) for kind in kinds}

    def trained(self, stage: StageConfig) -> Part:
        """What the stage's optimiser steps."""
        if stage.trains == "connector":
            return self.parts["connector"]
        return sum(self.parts.values(), Part(total=self.beside.get("masked_image_head", 0)))


def part_of(name: str) -> str:
    """The part that a parameter of RFModel belongs to."""
    return next(part for part, expression in _NAMES.items() if re.match(expression, name))


def count_parameters(config: ExperimentConfig) -> Parameters:
    """Of the model of a config."""
    decoder, parts = config.model.decoder, dict.fromkeys(_NAMES, Part())
    for name, parameter in _meta_model(config).named_parameters():
        total = parameter.numel()
        is_expert = ".pools." in name and parameter.ndim == 3  # the experts of a pool, in one tensor
        active = total * decoder.num_active_experts // decoder.num_experts if is_expert else total
        is_matrix = parameter.ndim > 1 and not name.startswith(("text_embedding.", "representation.identity"))
        is_matrix = is_matrix and not name.endswith("position")
        muon = total if is_block_matrix(name, parameter) else 0
        parts[part_of(name)] += Part(total, active, active if is_matrix else 0, muon)
    if encoder_of(config.model.encoder).is_pretrained:
        size = encoder_of(config.model.encoder).size(config.model.encoder)
        parts["encoder"] = Part(size.total, size.total, size.matmul)
    return Parameters({name: part for name, part in parts.items() if part.total}, _beside(config, parts["encoder"].total))


def count_by_pool(config: ExperimentConfig) -> dict[Pool | None, int]:
    """Parameters of the model by the pool whose tokens alone use them; under None, those that all tokens use."""
    encoder = encoder_of(config.model.encoder)
    counts: dict[Pool | None, int] = dict.fromkeys((None, *POOLS), 0)
    for name, parameter in _meta_model(config).named_parameters():
        is_stand_in = part_of(name) == "encoder" and encoder.is_pretrained
        counts[owner(name)] += 0 if is_stand_in else parameter.numel()
    if encoder.is_pretrained:
        counts["understanding"] += encoder.size(config.model.encoder).total
    return {pool: count for pool, count in counts.items() if count}


def largest_tensor(config: ExperimentConfig) -> int:
    """Numbers of the model's largest tensor, its encoder's aside."""
    return max(parameter.numel() for parameter in _meta_model(config).parameters())


def _beside(config: ExperimentConfig, encoder: int) -> dict[str, int]:
    cost = representation_of(config).cost(config, 0)
    beside = ({"target_encoder": encoder} if cost.has_targets else {}) | cost.stored | space_of(config.model).stored(config.model)
    if config.stages[-1].mixture.masked_image:
        beside["masked_image_head"] = _numel(meta_masked_head(config))
    return beside


def meta_masked_head(config: ExperimentConfig) -> MaskedImageHead:
    """The masked-image head, without memory."""
    with torch.device("meta"):
        return MaskedImageHead(config.model.encoder)


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _meta_model(config: ExperimentConfig) -> RFModel:
    """The model, without memory. A pretrained encoder, which is counted in closed form and would need transformers, is replaced
    by a small one of the same width."""
    vocab = config.model.decoder.vocab_size or world_of(config).tokenizer(config).vocab_size
    if encoder_of(config.model.encoder).is_pretrained:
        stand_in = encoder_of(config.model.encoder).stand_in(config.model.encoder)
        config = copy(config)
        object.__setattr__(config, "model", replace(config.model, encoder=stand_in))  # past the checks: nobody could train it
    with torch.device("meta"):
        return RFModel(config, vocab)
