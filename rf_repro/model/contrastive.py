"""Language-image contrast with a sigmoid a pair (SigLIP, arXiv 2303.15343): one of the two ways to pretrain an encoder at `tiny`.

B pairs, D embedding width. Every image of a batch is set against every caption, as a yes-or-no question of its own, so nothing
is normalised over the batch. Embeddings, similarities and the loss are float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.model.encoder import EncoderBlock, VisionTransformer

# SigLIP's start: sharp, and biased towards "no", which nearly all pairs are.
INITIAL_TEMPERATURE, INITIAL_BIAS = 10.0, -10.0
TEXT_LAYERS = 2


class TextTower(nn.Module):
    """Captions int64 [B, T] -> [B, width]: a bidirectional transformer, averaged over all tokens (pads are tokens too)."""

    def __init__(self, vocab_size: int, length: int, width: int, num_heads: int, ffn_width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList([EncoderBlock(width, num_heads, ffn_width) for _ in range(TEXT_LAYERS)])
        self.norm = nn.LayerNorm(width)

    def forward(self, text_ids: Tensor) -> Tensor:
        x = self.embedding(text_ids) + self.place.weight
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)


class ContrastiveModel(nn.Module):
    """An encoder with what the contrast needs beside it; only `encoder` outlives the pretraining."""

    def __init__(self, config: EncoderConfig, image_size: int, vocab_size: int, text_length: int) -> None:
        super().__init__()
        self.encoder = VisionTransformer(config, image_size)
        self.text = TextTower(vocab_size, text_length, config.width, config.num_heads, config.ffn_width)
        self.image_projection = nn.Linear(config.width, config.width)
        self.text_projection = nn.Linear(config.width, config.width)
        # Offsets from the values above, so that weight decay draws them there and not to zero.
        self.log_temperature_offset = nn.Parameter(torch.zeros(()))
        self.bias_offset = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, text_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of images [B, 3, S, S] and captions int64 [B, T], each float32 [B, D].

        The image's is the mean over its patches, not a learned query's choice: each patch must say what it holds.
        """
        image = self.image_projection(self.encoder.norm(self.encoder(images)).mean(1))
        text = self.text_projection(self.text(text_ids))
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def loss(self, images: Tensor, text_ids: Tensor) -> Tensor:
        """The contrast of a batch of pairs; equal captions are true of each other's images."""
        image_BD, text_BD = self(images, text_ids)
        temperature = INITIAL_TEMPERATURE * self.log_temperature_offset.float().exp()
        return sigmoid_loss(image_BD, text_BD, same_captions(text_ids), temperature, INITIAL_BIAS + self.bias_offset.float())


def same_captions(text_ids: Tensor) -> Tensor:
    """Bool [B, B]: whether captions i and j are the same words. int64 [B, T]."""
    return (text_ids[:, None] == text_ids[None]).all(-1)


def sigmoid_loss(image_BD: Tensor, text_BD: Tensor, matches_BB: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    """-log sigmoid(± (t x·y + b)), summed over all pairs, over the batch size (SigLIP's Algorithm 1).

    Args:
        image_BD, text_BD: unit embeddings.
        matches_BB: bool, True where caption j is true of image i: the diagonal, and every repetition of a caption, which
            SigLIP would count among the negatives (rare on the web; at `tiny` a quarter of a batch's images have a double).
    """
    logits_BB = temperature * image_BD @ text_BD.T + bias
    signs_BB = torch.where(matches_BB, 1.0, -1.0)
    return -F.logsigmoid(signs_BB * logits_BB).sum() / len(logits_BB)
