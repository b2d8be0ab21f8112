"""L = L_LM + L_FM + L_Rep (paper Eq. 3) of one pack, each term as (sum, count) so that accumulation and rank count
do not change it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.schema import ObjectiveConfig, StageConfig
from rf_repro.data.packing import PackedBatch, TextTokens
from rf_repro.model.encoder import MaskedImageHead
from rf_repro.model.layers import patchify
from rf_repro.model.rf_model import GenerationInput, RFModel, UnderstandingInput
from rf_repro.train.flow import interpolate, sample_times, velocity_loss

LossTerms = dict[str, tuple[Tensor, int]]

# Weight of masked-image modelling beside captioning in the first stage at `tiny` (assumed; it balanced the two).
MASKED_IMAGE_WEIGHT = 4.0


def cross_entropy_terms(logits: Tensor, targets: Tensor, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """(sum, count) of next-token cross-entropy: logits [..., V], targets int64 [...] with `ignore` where there is none."""
    total = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=ignore, reduction="sum")
    return total, (targets != ignore).sum()


def compute_losses(
    model: RFModel,
    batch: PackedBatch,
    codes: list[Tensor] | None,
    objective: ObjectiveConfig,
    tokens: TextTokens,
    generator: torch.Generator,
    masked_head: MaskedImageHead | None = None,
) -> LossTerms:
    """Draws noise, times and dropped conditions, runs the model once, and returns the terms present in the batch.

    Args:
        codes: representation targets int64 [B, N] of each generation group, assigned over the whole optimiser step.
        generator: a CPU generator; every draw of the step comes from it.
    """
    device = model.text_embedding.weight.device
    patch_size = model.config.model.pixel.patch_size
    inputs, cleans = [], []
    for index, group in enumerate(batch.generation):
        count = group.text_ids.shape[0]
        clean = patchify(group.images.float(), patch_size)
        t = sample_times(count, objective, generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        text_dropped = (torch.rand(count, generator=generator) < objective.text_drop).to(device)
        representation_dropped = (torch.rand(count, generator=generator) < objective.representation_drop).to(device)
        null_text = tokens.dropped(group.text_ids.shape[1]).to(device)
        inputs.append(
            GenerationInput(
                text_ids=torch.where(text_dropped[:, None], null_text, group.text_ids),
                noisy=interpolate(clean, noise, t),
                t=t,
                codes=codes[index] if codes is not None else None,
                representation_dropped=representation_dropped if codes is not None else None,
            )
        )
        cleans.append((clean, text_dropped))

    questions = [UnderstandingInput(group.images, group.text_ids) for group in batch.understanding]
    outputs, answers = model(inputs, questions) if inputs or questions else ([], [])

    sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for group, given, (clean, text_dropped), output in zip(batch.generation, inputs, cleans, outputs, strict=True):
        sums.setdefault("flow", []).append(velocity_loss(output.clean, clean, given.noisy, given.t, objective.min_one_minus_t))
        if output.representation_logits is not None and given.codes is not None:
            assert given.representation_dropped is not None
            targets = given.codes.masked_fill(given.representation_dropped[:, None], -100)  # a dropped sequence has no L_Rep
            sums.setdefault("representation", []).append(cross_entropy_terms(output.representation_logits, targets))
        if objective.caption_loss:
            targets = group.text_ids[:, 1:].masked_fill(text_dropped[:, None] | (group.text_ids[:, 1:] == tokens.pad), -100)
            sums.setdefault("text", []).append(cross_entropy_terms(model.text_logits(output.text_hidden[:, :-1]), targets))
    for question, logits in zip(questions, answers, strict=True):
        targets = question.text_ids[:, 1:].masked_fill(question.text_ids[:, 1:] == tokens.pad, -100)
        sums.setdefault("text", []).append(cross_entropy_terms(logits[:, :-1], targets))
    if batch.masked_images is not None:
        assert masked_head is not None
        images = batch.masked_images.to(model.text_embedding.weight.dtype)
        masked = torch.rand(images.shape[0], model.encoder.grid**2, generator=generator) < masked_head.MASK_RATIO
        sums["masked_image"] = [masked_head(model.encoder, images, masked.to(device))]
    return {
        name: (torch.stack([total for total, _ in terms]).sum(), sum([int(count) for _, count in terms]))
        for name, terms in sums.items()
    }


def weights(objective: ObjectiveConfig, stage: StageConfig) -> dict[str, float]:
    """The weight of each term in the stage's total."""
    return {
        "text": stage.text_weight,
        "flow": objective.flow_weight,
        "representation": objective.representation_weight,
        "masked_image": MASKED_IMAGE_WEIGHT,
    }
