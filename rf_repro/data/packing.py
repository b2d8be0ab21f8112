"""Batches: what one optimiser step trains on. Samples of one layout form a group; the model packs the groups into one
sequence (rf_repro.model.layout)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]  # (height, width) of an image in pixels


@dataclass(frozen=True)
class SampleGroup:
    """Images float32 [B, 3, H, W] in [-1, 1] (None: text alone) with text_ids int64 [B, T]: a caption to generate from, or to
    be learned from the image; or a question and its answer, then `answer_mask` bool [B, T] is True at the answer."""

    images: Tensor | None
    text_ids: Tensor
    answer_mask: Tensor | None = None

    @property
    def size(self) -> Size | None:
        """Of its images."""
        return None if self.images is None else (self.images.shape[2], self.images.shape[3])


@dataclass(frozen=True)
class PackedBatch:
    """Groups by task, and images [B, 3, S, S] for masked-image modelling (first stage at `tiny`)."""

    generation: tuple[SampleGroup, ...] = ()
    understanding: tuple[SampleGroup, ...] = ()
    masked_images: Tensor | None = None

    def record_stream(self, stream: "torch.cuda.Stream") -> None:
        """Keeps the memory of what another CUDA stream copied until this one is done with it."""
        for group in (*self.generation, *self.understanding):
            for part in (group.images, group.text_ids, group.answer_mask):
                if part is not None:
                    part.record_stream(stream)

    def to(self, device: torch.device) -> "PackedBatch":
        def move(group: SampleGroup) -> SampleGroup:
            parts = (group.images, group.text_ids, group.answer_mask)
            return SampleGroup(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

        return replace(
            self,
            generation=tuple(map(move, self.generation)),
            understanding=tuple(map(move, self.understanding)),
            masked_images=None if self.masked_images is None else self.masked_images.to(device),
        )


@dataclass(frozen=True)
class TextTokens:
    """Ids with a role in the losses."""

    pad: int
    bos: int
    null: int

    def dropped(self, length: int) -> Tensor:
        """The text of a dropped condition, int64 [length]: a start token and nulls."""
        ids = torch.full((length,), self.null)
        ids[0] = self.bos
        return ids


def to_images(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] (clamped) -> uint8 [B, H, W, 3]."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """One image uint8 [H, W, 3] -> float32 [3, H, W] in [-1, 1]."""
    return to_images(torch.from_numpy(np.array(pixels))[None])[0]
