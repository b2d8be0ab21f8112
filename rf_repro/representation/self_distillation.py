"""Self-distillation without labels (DINO, arXiv 2104.14294; its masked patches: iBOT, 2111.07832; both, balanced by
Sinkhorn-Knopp: DINOv2, 2304.07193): one of the two ways to pretrain an encoder at `tiny`.

B images, V views of each, P patches, K prototypes, N rows of a loss. A student learns to say of one view of an image what its
own average, the teacher, says of another: which of K prototypes it is like. Logits, targets and losses are float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.schema import EncoderConfig
from rf_repro.model.encoder import VisionTransformer

NUM_VIEWS = 2
NUM_PROTOTYPES = 512
HEAD_WIDTH, BOTTLENECK = 256, 64
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.07
SINKHORN_ITERATIONS = 3  # DINOv2's
MASK_RATIO = 0.5

# Views of a world in which shape, colour and place are the content: nothing may turn one shape or colour into another, and
# hardly anything may leave the picture.
MAX_SHIFT = 3.0  # pixels, each way
ZOOM = (0.85, 1.2)  # size of objects in the view over theirs in the image
BRIGHTNESS = (0.8, 1.1)
NOISE = 0.05  # standard deviation, of pixels in [-1, 1]


class PrototypeHead(nn.Module):
    """Features [..., width] -> logits float32 [..., K]: cosines between a bottleneck and the prototypes, not yet sharpened."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, HEAD_WIDTH), nn.GELU(), nn.Linear(HEAD_WIDTH, BOTTLENECK))
        self.prototypes = nn.Linear(BOTTLENECK, NUM_PROTOTYPES, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.mlp(features).float(), dim=-1) @ F.normalize(self.prototypes.weight.float(), dim=-1).T


class SelfDistillationModel(nn.Module):
    """An encoder with a head for whole images and one for patches; the teacher is another of these, with averaged weights."""

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.encoder = VisionTransformer(config, image_size)
        self.image_head = PrototypeHead(config.width)
        self.patch_head = PrototypeHead(config.width)

    def forward(self, views: Tensor, seen: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            views: [V*B, 3, S, S].
            seen: bool [V*B, P], the patches whose logits are wanted.
            masked: bool [V*B, P], patches hidden from the encoder.

        Returns:
            Logits of the mean feature [V*B, K], and of the wanted patches [N, K].
        """
        features = self.encoder.norm(self.encoder(views, masked))
        return self.image_head(features.mean(1)), self.patch_head(features[seen])


def self_distillation_losses(
    student: SelfDistillationModel, teacher: SelfDistillationModel, views: Tensor, masked: Tensor
) -> dict[str, Tensor]:
    """Cross-entropies of the student's masked views with what the teacher says of the whole ones.

    Args:
        views: [V*B, 3, S, S], all first views before all second ones.
        masked: bool [V*B, P].

    Returns:
        "image": each view against the image's other one; "patch": masked patches against the same patches. Each is at
        most about log K while the student says nothing, and stays there if it collapses: targets are balanced over K.
    """
    with torch.no_grad():
        image_targets, patch_targets = (
            sinkhorn_targets(logits, TEACHER_TEMPERATURE, SINKHORN_ITERATIONS) for logits in teacher(views, masked)
        )
    image_logits, patch_logits = student(views, masked, masked)
    first, second = image_targets.chunk(NUM_VIEWS)
    return {
        "image": distillation_loss(image_logits, torch.cat([second, first]), STUDENT_TEMPERATURE),
        "patch": distillation_loss(patch_logits, patch_targets, STUDENT_TEMPERATURE),
    }


def sinkhorn_targets(logits_NK: Tensor, temperature: float, iterations: int) -> Tensor:
    """Distributions over prototypes, float32 [N, K], all prototypes about equally in demand (Sinkhorn-Knopp).

    Rows come last, so each is a distribution exactly. In the log domain, which no temperature overflows.
    """
    log_NK = logits_NK.float() / temperature
    for _ in range(iterations):
        log_NK = log_NK - log_NK.logsumexp(0, keepdim=True)
        log_NK = log_NK - log_NK.logsumexp(1, keepdim=True)
    return log_NK.exp()


def distillation_loss(logits_NK: Tensor, targets_NK: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of the sharpened student's logits with the teacher's distributions."""
    return -(targets_NK * (logits_NK / temperature).log_softmax(-1)).sum(-1).mean()


def draw_masks(count: int, num_patches: int, generator: torch.Generator) -> Tensor:
    """Bool [count, P]: patches to hide, each with the same chance."""
    return torch.rand(count, num_patches, generator=generator) < MASK_RATIO


def draw_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two random views of each image, [2*B, 3, S, S]: flipped left to right or not, moved, zoomed, brighter or darker, noisy.

    What lies beyond the image's edge continues the edge. Draws come from a CPU generator, whatever the device.
    """
    images = images.repeat(NUM_VIEWS, 1, 1, 1)
    count, size = len(images), images.shape[-1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(images.device)

    zoom = uniform(*ZOOM, count)
    flip = torch.where(uniform(0, 1, count) < 0.5, -1.0, 1.0)
    shift = uniform(-MAX_SHIFT, MAX_SHIFT, count, 2) * 2 / size  # in units where the image spans [-1, 1]
    affine = torch.zeros(count, 2, 3, device=images.device)  # from the view's places to the image's
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = flip / zoom, 1 / zoom, shift
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light = uniform(*BRIGHTNESS, count, 1, 1, 1)
    noise = NOISE * torch.randn(views.shape, generator=generator).to(images.device)
    return ((views + 1) * light - 1 + noise).clamp(-1, 1)
