"""Self-distillation without labels (DINO, arXiv 2104.14294; its masked patches: iBOT, 2111.07832; both, balanced by
Sinkhorn-Knopp: DINOv2, 2304.07193): one of the two ways to pretrain an encoder at `tiny`.

B images, P patches, K prototypes, N rows of a loss. A student learns to say of one view of an image what its own average, the
teacher, says of another: which of K prototypes it is like. Logits, targets and losses are float32.

Departures, each for a world of small objects before an empty background, and for minutes of training (LOG.md):
- Patches are compared with the same spot of the other view, not of the same view, where their position alone would give
  balanced targets away; together with their neighbours, for else their place within an object is what is learned; and only
  where they stand out from the view, for else most codes describe the background.
- The student reads one view of an image and the teacher the other, for half the cost of both reading both.
- Temperatures are half of DINO's: with a teacher at 0.05, two thirds of the loss was the targets' own entropy.
- The image's embedding is the mean over its patches: this encoder has no class token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rf_repro.config.model_schema import EncoderConfig
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.model.encoder import VisionTransformer

NUM_PROTOTYPES = 256
HEAD_WIDTH, BOTTLENECK = 256, 64
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.05, 0.02
SINKHORN_ITERATIONS = 3  # DINOv2's
MASK_RATIO = 0.3
NEIGHBOURHOOD = 3  # patches a side, about an object
COMPARED_SHARE = 0.25  # of the patches

# Views: nothing may turn one shape or colour into another.
MAX_SHIFT = 5.0  # pixels of the image, each way
ZOOM = (0.9, 2.0)  # size of objects in the view over theirs in the image
BRIGHTNESS = (0.8, 1.1)
GREY_SHARE = 0.5  # of the images, both views: in these, colour does not tell what a patch is
GREY_WEIGHT = (0.1, 1.0)  # of each channel, before they are made to sum to one: nor does the grey that a colour becomes
NOISE = 0.03  # standard deviation, of pixels in [-1, 1]


class PrototypeHead(nn.Module):
    """Features [..., width] -> logits float32 [..., K]: cosines between a bottleneck and the prototypes, not yet sharpened."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, HEAD_WIDTH), nn.GELU(),
            nn.Linear(HEAD_WIDTH, HEAD_WIDTH), nn.GELU(),
            nn.Linear(HEAD_WIDTH, BOTTLENECK),
        )  # fmt: skip
        self.prototypes = nn.Linear(BOTTLENECK, NUM_PROTOTYPES, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        bottleneck = self.mlp(features.to(self.prototypes.weight.dtype))
        return F.normalize(bottleneck.float(), dim=-1) @ F.normalize(self.prototypes.weight.float(), dim=-1).T


class SelfDistillationModel(nn.Module):
    """An encoder with a head for whole images and one for patches; the teacher is another of these, with averaged weights."""

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.encoder = VisionTransformer(config, image_size)
        self.image_head = PrototypeHead(config.width)
        self.patch_head = PrototypeHead(config.width)

    def features(self, views: Tensor, masked: Tensor | None = None) -> Tensor:
        """Normed patch features [B, P, width] of views [B, 3, S, S]; bool masks [B, P] hide patches."""
        return self.encoder.norm(self.encoder(views, masked))


@dataclass(frozen=True)
class Views:
    """One random view of each image.

    Attributes:
        images: [B, 3, S, S].
        places: float32 [B, 2, 3], the affine map (diagonal, then shift) from places in the view to places in the image,
            where both span [-1, 1].
    """

    images: Tensor
    places: Tensor


def self_distillation_losses(
    student: SelfDistillationModel, teacher: SelfDistillationModel, own: Views, other: Views, masked: Tensor
) -> dict[str, Tensor]:
    """Cross-entropies of what the student says of its masked view with what the teacher says of the other, whole one.

    Args:
        own, other: the student's and the teacher's views of the same images.
        masked: bool [B, P], patches hidden from the student.

    Returns:
        "image": the mean over patches against that of the other view; "patch": neighbourhoods of patches against the same spot
        of the other view, where that shows it and it stands out there. Each is log K while the student says nothing, and if
        it collapses.
    """
    where, shown = patches_elsewhere(own.places, other.places, student.encoder.grid)
    with torch.no_grad():
        features = teacher.features(other.images)
        elsewhere = interpolate_features(neighbourhoods(features), where)
        compared = stand_out(elsewhere, shown)
        image_targets, patch_targets = (
            sinkhorn_targets(logits, TEACHER_TEMPERATURE, SINKHORN_ITERATIONS)
            for logits in (teacher.image_head(features.mean(1)), teacher.patch_head(elsewhere[compared]))
        )
    features = student.features(own.images, masked)
    return {
        "image": distillation_loss(student.image_head(features.mean(1)), image_targets, STUDENT_TEMPERATURE),
        "patch": distillation_loss(student.patch_head(neighbourhoods(features)[compared]), patch_targets, STUDENT_TEMPERATURE),
    }


def neighbourhoods(features: Tensor) -> Tensor:
    """What sets the surroundings of each patch apart from the whole view, [B, P, D]: the mean over `NEIGHBOURHOOD` patches a
    side (fewer at the edge), less that over all.

    Of single patches, colour and the place within an object are the easiest to predict, of the view's mean what all of it is
    like; of a neighbourhood as large as an object, what object it is.
    """
    B, P, D = features.shape
    n, size = int(P**0.5), NEIGHBOURHOOD
    deviations = (features - features.mean(1, keepdim=True)).transpose(1, 2).reshape(B, D, n, n)
    return F.avg_pool2d(deviations, size, 1, size // 2, count_include_pad=False).flatten(2).transpose(1, 2)


def stand_out(deviations: Tensor, among: Tensor) -> Tensor:
    """The patches of bool `among` [B, P] with the largest deviations [B, P, D]: bool, at most `COMPARED_SHARE` of P a view."""
    size = deviations.norm(dim=-1).masked_fill(~among, -1.0)
    chosen = size.topk(max(1, int(COMPARED_SHARE * size.shape[1])), dim=1).indices
    return among & torch.zeros_like(among).scatter_(1, chosen, True)


def patches_elsewhere(own: Tensor, other: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Where the patches of one view lie in another, given the places [B, 2, 3] of both.

    Returns:
        Float32 [B, P, 2], x and y in units where the other view spans [-1, 1], and bool [B, P], whether it is inside.
    """
    centres = (torch.arange(grid, device=own.device) + 0.5) * (2 / grid) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    patches = torch.stack([x, y], -1).view(1, -1, 2)

    def scale_and_shift(places: Tensor) -> tuple[Tensor, Tensor]:
        return places[:, :, :2].diagonal(dim1=1, dim2=2)[:, None], places[:, None, :, 2]

    own_scale, own_shift = scale_and_shift(own)
    other_scale, other_shift = scale_and_shift(other)
    where = (patches * own_scale + own_shift - other_shift) / other_scale
    return where, (where.abs() <= 1).all(-1)


def interpolate_features(features: Tensor, where: Tensor) -> Tensor:
    """Features [B, P, D] of a square grid at places [B, N, 2] (x, y in [-1, 1]), bilinearly: float32 [B, N, D]."""
    B, P, D = features.shape
    n = int(P**0.5)
    image = features.float().transpose(1, 2).reshape(B, D, n, n)
    sampled = F.grid_sample(image, where[:, None], padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


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


def draw_views(images: Tensor, generator: torch.Generator) -> tuple[Views, Views]:
    """Two random views of each image [B, 3, S, S].

    Each is flipped left to right or not, moved, zoomed, brighter or darker, noisy. Of some images both are grey. What lies
    beyond the image's edge continues the edge. Draws come from a CPU generator, whatever the device.
    """
    count, size = len(images), images.shape[-1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(images.device)

    grey = uniform(0, 1, count, 1, 1, 1) < GREY_SHARE

    def view() -> Views:
        zoom = uniform(*ZOOM, count)
        flip = torch.where(uniform(0, 1, count) < 0.5, -1.0, 1.0)
        places = torch.zeros(count, 2, 3, device=images.device)
        places[:, 0, 0], places[:, 1, 1] = flip / zoom, 1 / zoom
        places[:, :, 2] = uniform(-MAX_SHIFT, MAX_SHIFT, count, 2) * 2 / size
        grid = F.affine_grid(places, list(images.shape), align_corners=False)
        seen = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        channels = uniform(*GREY_WEIGHT, count, 3, 1, 1)
        seen = torch.where(grey, (seen * channels / channels.sum(1, keepdim=True)).sum(1, keepdim=True), seen)
        noise = NOISE * normals(new_seeds(count, generator).to(images.device), *images.shape[1:])
        return Views(((seen + 1) * uniform(*BRIGHTNESS, count, 1, 1, 1) - 1 + noise).clamp(-1, 1), places)

    return view(), view()
