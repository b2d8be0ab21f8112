"""What `RFModel.forward` takes and gives, group by group.

B samples of a group, T text tokens, N representation tokens, P generation tokens of C numbers, D width, K codes, F width of the
encoder's features, H x W pixels of an image.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import register_dataclass

from rf_repro.data.packing import Size


@dataclass(frozen=True)
class GenerationInput:
    """`[text | representation | pixels]` samples of one layout.

    text_ids int64 [B, T] (null text where dropped); noisy float [B, P, C]; t float [B]; representation: codes int64 [B, N],
    or features float [B, N, F], or None; representation_dropped bool [B] or None; size: (H, W) in pixels, None: the largest.
    """

    text_ids: Tensor
    noisy: Tensor
    t: Tensor
    representation: Tensor | None = None
    representation_dropped: Tensor | None = None
    size: Size | None = None


@dataclass(frozen=True)
class UnderstandingInput:
    """`[image features | text]` samples of one layout, or text alone: images [B, 3, H, W] in [-1, 1] or None, text_ids int64
    [B, T]."""

    images: Tensor | None
    text_ids: Tensor

    @property
    def size(self) -> Size | None:
        """(H, W) in pixels of its images."""
        return None if self.images is None else (self.images.shape[2], self.images.shape[3])


@dataclass(frozen=True)
class GenerationOutput:
    """text_hidden [B, T, D]; representation: what predicts the tokens, logits [B, N, K] where they are discrete, or None; clean
    float32 [B, P, C], the predicted x; aligned: the projected middle layer of pixel tokens [B, P, F] under REPA, or None."""

    text_hidden: Tensor
    representation: Tensor | None
    clean: Tensor
    aligned: Tensor | None


@dataclass(frozen=True)
class ForwardOutput:
    """A GenerationOutput for each generation group; text hidden states [B, T, D] of each understanding group; the mean
    load-balancing loss of the expert pools, float32 scalar."""

    generation: list[GenerationOutput]
    understanding: list[Tensor]
    balance: Tensor


# FSDP2 looks for the tensors in what a module returns.
for _output in (GenerationOutput, ForwardOutput):
    register_dataclass(_output)
