"""What a stage starts from: seeds, pretrained weights, or the stage before it (paper App. A)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rf_repro.compute.ranks import Ranks
from rf_repro.compute.sharding import copy_part_
from rf_repro.core.errors import UserError
from rf_repro.core.shown import say
from rf_repro.model.encoders import encoder_of
from rf_repro.model.initialise import starting_values
from rf_repro.model.rf_model import RFModel
from rf_repro.train.checkpoint import stream_weights


@dataclass(frozen=True)
class Start:
    """A checkpoint of the stage before.

    Attributes:
        continues: whether that is an earlier stage of the same variant, whose weights, averages, codebook and target encoder go
            on; otherwise it is a shared stage, whose averaged weights the variant starts from.
    """

    checkpoint: Path
    continues: bool = False


def given_values(
    model: RFModel, start: Start | None, encoder: Mapping[str, Tensor] | None, ranks: Ranks
) -> Iterator[tuple[str, Tensor]]:
    """Parameters of the model that do not start from the seed, by name, later ones over earlier ones.

    Args:
        encoder: weights of an encoder pretrained in-suite, by name.
    """
    config = model.config
    if encoder is not None:
        yield from ((f"encoder.{name}", tensor) for name, tensor in encoder.items())
    if start is not None:
        stream = stream_weights(start.checkpoint, not start.continues, ranks)
        own = dict(model.named_parameters())
        yield from starting_values(model, (item for item in stream if not start.continues or item[0] in own))
        return
    if config.model.encoder.pretrained:
        weights = encoder_of(config.model.encoder).weights(model.encoder, config.model.encoder.pretrained)
        yield from ((f"encoder.{name}", tensor) for name, tensor in weights)
    if config.model.decoder.pretrained:
        from rf_repro.model.hf_weights import Backbone

        decoder = config.model.decoder
        backbone = Backbone(config, decoder.pretrained, decoder.pool_initialisation)
        shapes = {name: p.shape for name, p in model.named_parameters() if not name.startswith("encoder.")}
        report = backbone.report(shapes)
        if ranks.is_first:
            say(*report.describe().split("\n"))
        yield from backbone.tensors()


@torch.no_grad()
def take_over(checkpoint: Path, averages: Mapping[str, Tensor], targets: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fills averages, and the state of targets, from the variant's stage before, in place.

    Raises:
        UserError: it lacks some.
    """
    for own, ema in ((averages, True), (targets, False)):
        left = set(own)
        for name, tensor in stream_weights(checkpoint, ema, ranks):
            if name in own:
                copy_part_(own[name], tensor)
                left.discard(name)
        if left:
            raise UserError(f"{checkpoint}: the stage before lacks {', '.join(sorted(left)[:3])}; train it again")
