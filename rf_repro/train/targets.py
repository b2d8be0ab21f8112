"""Representation targets in training: an averaged copy of the encoder, and what becomes of its features (paper Sec. 3.1).

B samples of a group, P patches, N representation tokens, F width of features.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rf_repro.compute.ranks import Ranks
from rf_repro.compute.sharding import fill, whole_tensors
from rf_repro.core.hashing import derive_seed
from rf_repro.data.packing import PackedBatch
from rf_repro.model.encoders import encoder_of
from rf_repro.model.rf_model import RFModel
from rf_repro.representation.targets import Targets
from rf_repro.train.data import OwnPack, TrainingData
from rf_repro.train.ema import Average
from rf_repro.train.objective import own_part

PREFIX = "target_encoder."  # of the average's tensors in a checkpoint


class TargetMaker:
    """Assigns targets over the features of a whole optimiser step, of all ranks.

    Args:
        model: whose images' sizes and encoder they are of.
        targets: what a feature becomes.
        masters: the encoder's float32 weights by name.
    """

    def __init__(
        self, model: RFModel, targets: Targets, masters: dict[str, Tensor], device: torch.device, dtype: torch.dtype, ranks: Ranks
    ) -> None:
        config = model.config
        self.config, self.device, self.dtype, self.ranks = config, device, dtype, ranks
        self.pixel_grid = model.pixel_grid
        self.average = Average(masters, config.model.encoder.target_ema_decay, warm_up=False)
        encoder = encoder_of(config.model.encoder).build(config.model.encoder, config.max_image_size)
        assert isinstance(encoder, torch.nn.Module)
        self.encoder = encoder.to(device, dtype).requires_grad_(False)
        self.values = targets.to(device)
        self.refresh()

    def refresh(self) -> None:
        """Copies the averaged weights, of which sharded ranks hold parts, into the encoder that makes targets."""
        fill(self.encoder, whole_tensors(self.average.values))

    def update(self, masters: dict[str, Tensor], step: int) -> None:
        """After the 1-based step."""
        self.average.update(masters, step)
        self.refresh()

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint, loaded in place; then `refresh`."""
        averages = {PREFIX + name: tensor for name, tensor in self.average.values.items()}
        return {**self.values.state_dict(), **averages}

    # Before the first step

    @torch.no_grad()
    def warm_up(self, data: TrainingData, seed: int) -> None:
        """Statistics, or prototypes, from the features of the first images; then updates of them alone (assumed)."""

        def features_of(images: list[Tensor]) -> Tensor:
            return self.ranks.gather(self._flat(self.features(images)))

        first = data.first_features(features_of, self.config.representation.codebook_size)
        self.values.initialise(first, torch.Generator().manual_seed(derive_seed("codebook", seed)))
        self._keep_alike()
        for images in data.warm_up_images(self.values.warm_up_batches):
            self.values.warm_up(self._flat(self.features([images])), self.ranks)
        self._keep_alike()

    def _keep_alike(self) -> None:
        """Scattered sums of a GPU round differently from run to run, so the first rank's state stands for all."""
        self.ranks.copy_first_(list(self.values.buffers()))

    # In each step

    @torch.no_grad()
    def features(self, images: list[Tensor]) -> list[Tensor]:
        """Features of the EMA encoder before its final norm, float32 [B, N, F] of each batch of images, as they are assigned."""
        encoded = self.encoder.encode([batch.to(self.device, self.dtype) for batch in images])
        patch, found = self.config.model.encoder.patch_size, []
        for batch, own in zip(images, encoded, strict=True):
            size = (batch.shape[2], batch.shape[3])
            found.append(self.values.features(own, (size[0] // patch, size[1] // patch), self.pixel_grid(size)))
        return found

    @torch.no_grad()
    def assign(self, batches: list[PackedBatch]) -> list[list[Tensor]]:
        """For each pack the targets of this rank's samples of each generation group: codes int64 [B, N], or features
        [B, N, F]."""
        images = [group.images for batch in batches for group in batch.generation if group.images is not None]
        features = self.features(images)
        assigned = self.values.assign(self._flat(features), self.ranks)
        self._keep_alike()
        pieces = assigned.split([item.shape[0] * item.shape[1] for item in features]) if features else ()
        found = iter(piece.view(*item.shape[:2], *piece.shape[1:]) for piece, item in zip(pieces, features, strict=True))
        return [[next(found) for _ in batch.generation] for batch in batches]

    def of_step(self, packs: list[OwnPack]) -> list[list[Tensor]]:
        """As `assign`, of this rank's samples of packs that ranks share out."""
        mine = [
            replace(pack.batch, generation=tuple(own_part(group, pack.ranks) for group in pack.batch.generation))
            for pack in packs
        ]
        return self.assign(mine)

    @torch.no_grad()
    def of_images(self, images: Tensor) -> Tensor:
        """What stands for images [B, 3, H, W], in training or not: values of representation tokens [B, N, ...]."""
        (features,) = self.features([images])
        return self.values.values(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def _flat(self, features: list[Tensor]) -> Tensor:
        """[n, F] of all of them; of none, no rows."""
        empty = torch.zeros(0, self.config.model.encoder.width, device=self.device)
        return torch.cat([empty, *(item.flatten(0, 1) for item in features)])
