"""L = L_LM + L_FM + L_Rep (paper Eq. 3) of one pack, each term as (sum, count) so that accumulation and rank count
do not change it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rf_repro.config.schema import ExperimentConfig, ObjectiveConfig, StageConfig
from rf_repro.data.packing import PackedBatch, SampleGroup, TextTokens
from rf_repro.model.encoder import MaskedImageHead
from rf_repro.model.rf_model import GenerationInput, RFModel, UnderstandingInput
from rf_repro.model.space import ImageSpace
from rf_repro.representation.alignment import alignment_loss
from rf_repro.train.flow import interpolate, sample_times, velocity_loss
from rf_repro.train.ranks import ALONE, Ranks

LossTerms = dict[str, tuple[Tensor, int]]

# Weight of masked-image modelling beside captioning in the first stage at `tiny` (assumed; it balanced the two).
MASKED_IMAGE_WEIGHT = 4.0


def cross_entropy_terms(logits: Tensor, targets: Tensor, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """(sum, count) of next-token cross-entropy: logits [..., V], targets int64 [...] with `ignore` where there is none."""
    total = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=ignore, reduction="sum")
    return total, (targets != ignore).sum()


def compute_losses(
    model: RFModel,
    space: ImageSpace,
    batch: PackedBatch,
    targets: list[Tensor] | None,
    objective: ObjectiveConfig,
    tokens: TextTokens,
    generator: torch.Generator,
    masked_head: MaskedImageHead | None = None,
    ranks: Ranks = ALONE,
) -> LossTerms:
    """Draws noise, times and dropped conditions, runs the model once, and returns the terms present in the batch.

    Every rank draws for the whole batch and then keeps its own rows; its sums and counts are of these, and a term that
    none of them has is (0, 0). A rank needs a generation sample of each group; of other kinds it may have none.

    Args:
        space: what generation tokens hold.
        targets: the encoder's view of each generation group, assigned over the whole optimiser step: codes int64 [B, N] or
            features [B, N, F] of representation tokens, or features [B, P, F] to align with; None without any.
        generator: a CPU generator; every draw of the step comes from it.
    """
    device = model.text_embedding.weight.device
    inputs, drawn = [], []
    for index, whole in enumerate(batch.generation):
        count = len(whole.text_ids)
        rows, group = ranks.rows(count), own_part(whole, ranks)
        assert group.images is not None
        clean = space.encode(group.images)
        t = sample_times(count, objective, generator)[rows].to(device)
        noise = torch.randn(count, *clean.shape[1:], generator=generator)[rows].to(device)
        text_dropped = (torch.rand(count, generator=generator) < objective.text_drop)[rows].to(device)
        representation_dropped = (torch.rand(count, generator=generator) < objective.representation_drop).to(device)
        null_text = tokens.dropped(group.text_ids.shape[1]).to(device)
        has_tokens = targets is not None and model.representation is not None
        inputs.append(
            GenerationInput(
                text_ids=torch.where(text_dropped[:, None], null_text, group.text_ids),
                noisy=interpolate(clean, noise, t),
                t=t,
                representation=targets[index][rows] if targets is not None and has_tokens else None,
                representation_dropped=representation_dropped[rows] if has_tokens else None,
            )
        )
        drawn.append((group, rows, clean, text_dropped, representation_dropped))

    asked = [group for group in (own_part(whole, ranks) for whole in batch.understanding) if len(group.text_ids)]
    questions = [UnderstandingInput(group.images, group.text_ids) for group in asked]
    outputs, answers = model(inputs, questions) if inputs or questions else ([], [])

    sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for index, ((group, rows, clean, text_dropped, representation_dropped), given, output) in enumerate(
        zip(drawn, inputs, outputs, strict=True)
    ):
        sums.setdefault("flow", []).append(velocity_loss(output.clean, clean, given.noisy, given.t, objective.min_one_minus_t))
        if model.representation is not None:
            assert output.representation is not None
            assert targets is not None
            term = model.representation.loss(
                output.representation, targets[index], representation_dropped, objective, generator, rows
            )
            sums.setdefault("representation", []).append(term)
        if output.aligned is not None:
            assert targets is not None
            sums.setdefault("alignment", []).append(alignment_loss(output.aligned, targets[index][rows]))
        if objective.caption_loss:
            words = group.text_ids[:, 1:].masked_fill(text_dropped[:, None] | (group.text_ids[:, 1:] == tokens.pad), -100)
            sums.setdefault("text", []).append(cross_entropy_terms(model.text_logits(output.text_hidden[:, :-1]), words))
    if batch.understanding:
        sums.setdefault("text", [])
    for group, logits in zip(asked, answers, strict=True):
        ignored = group.text_ids == tokens.pad if group.answer_mask is None else ~group.answer_mask
        words = group.text_ids.masked_fill(ignored, -100)[:, 1:]
        sums.setdefault("text", []).append(cross_entropy_terms(logits[:, :-1], words))
    if batch.masked_images is not None:
        assert masked_head is not None
        count = len(batch.masked_images)
        rows = ranks.rows(count)
        images = batch.masked_images[rows].to(model.text_embedding.weight.dtype)
        masked = torch.rand(count, model.encoder.grid**2, generator=generator)[rows] < masked_head.MASK_RATIO
        sums["masked_image"] = [masked_head(model.encoder, images, masked.to(device))] if len(images) else []
    nothing = torch.zeros((), device=device)
    return {
        name: (torch.stack([total for total, _ in terms]).sum() if terms else nothing, sum([int(count) for _, count in terms]))
        for name, terms in sums.items()
    }


def own_part(group: SampleGroup, ranks: Ranks) -> SampleGroup:
    """This rank's samples of a group."""
    rows = ranks.rows(len(group.text_ids))
    parts = (group.images, group.text_ids, group.answer_mask)
    return SampleGroup(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def weights(config: ExperimentConfig, stage: StageConfig) -> dict[str, float]:
    """The weight of each term in the stage's total."""
    return {
        "text": stage.text_weight,
        "flow": config.objective.flow_weight,
        "representation": config.objective.representation_weight,
        "alignment": config.representation.alignment.weight,
        "masked_image": MASKED_IMAGE_WEIGHT,
    }
