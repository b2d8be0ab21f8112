"""L = L_LM + L_FM + L_Rep (paper Eq. 3) of one pack, each term as a sum, with its count known before the forward pass: so
accumulation and rank count do not change them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import ObjectiveConfig, StageConfig
from rf_repro.data.packing import PackedBatch, SampleGroup, TextTokens
from rf_repro.maths.flow import interpolate, sample_times, velocity_loss
from rf_repro.maths.noise import new_seeds, normals
from rf_repro.model.encoder import MaskedImageHead
from rf_repro.model.inputs import GenerationInput, UnderstandingInput
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace
from rf_repro.representation.kinds import representation_of

# Weight of masked-image modelling beside captioning in the first stage at `tiny` (assumed; it balanced the two).
MASKED_IMAGE_WEIGHT = 4.0
IGNORE = -100  # a target that is none


@dataclass(frozen=True)
class Drawn:
    """One rank's part of a pack, with everything random in it but the noise of continuous tokens.

    Attributes:
        generation, understanding: what the model is given.
        clean: tokens [B, P, C] of each generation group.
        targets: the encoder's view of each generation group, codes or features, or None without any.
        dropped: bool, whose representation is dropped: of all ranks' samples of each group; `rows` are this rank's.
        words: ids that follow each text token of each group (generation, then understanding), int64 [B, T - 1], or IGNORE.
        masked_images: images and the patches that are hidden, bool [B, P].
        counts: term -> number of this rank's elements.
    """

    generation: list[GenerationInput]
    understanding: list[UnderstandingInput]
    clean: list[Tensor]
    targets: list[Tensor] | None
    dropped: list[Tensor]
    rows: list[slice]
    words: list[Tensor]
    masked_images: tuple[Tensor, Tensor] | None
    counts: dict[str, int]


def term_names(config: ExperimentConfig, stage: StageConfig) -> list[str]:
    """The terms of the stage's loss, the same on every rank and in every step."""
    mixture, kind = stage.mixture, representation_of(config)
    generates = mixture.generation > 0
    present = {
        "flow": generates,
        "representation": generates and kind.has_tokens,
        "alignment": generates and kind.is_aligned,
        "text": mixture.understanding + mixture.questions + mixture.text > 0 or (generates and config.objective.caption_loss),
        "masked_image": mixture.masked_image > 0,
        "router": config.model.decoder.num_experts > 0 and config.objective.router_weight > 0,
    }
    return [name for name, is_present in present.items() if is_present]


def draw_pack(
    model: RFModel,
    space: ImageSpace,
    batch: PackedBatch,
    targets: list[Tensor] | None,
    objective: ObjectiveConfig,
    tokens: TextTokens,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Drawn:
    """Draws noise, times, dropped conditions and hidden patches. Every rank draws for the whole pack and keeps its own rows.

    Args:
        space: what generation tokens hold.
        targets: the encoder's view of this rank's samples of each generation group, assigned over the whole optimiser step:
            codes int64 [B, N] or features [B, N, F] of representation tokens, or features [B, P, F] to align with.
        generator: a CPU generator; every draw comes from it, noise by its seeds.
        ranks: who share the pack out. Of a pack that one rank has to itself: ALONE.
    """
    device = model.text_embedding.weight.device
    generation, clean, all_dropped, all_rows, words = [], [], [], [], []
    counts = dict.fromkeys(("flow", "representation", "alignment", "text", "masked_image"), 0)
    for index, whole in enumerate(batch.generation):
        count = len(whole.text_ids)
        rows, group = ranks.rows(count), own_part(whole, ranks)
        assert group.images is not None
        x = space.encode(group.images)
        t = sample_times(count, objective, generator)[rows].to(device)
        noise = normals(new_seeds(count, generator)[rows].to(device), *x.shape[1:])
        text_dropped = (torch.rand(count, generator=generator) < objective.text_drop)[rows]
        dropped = torch.rand(count, generator=generator) < objective.representation_drop
        null_text = tokens.dropped(group.text_ids.shape[1]).to(device)
        has_tokens = targets is not None and model.representation is not None
        generation.append(
            GenerationInput(
                text_ids=torch.where(text_dropped.to(device)[:, None], null_text, group.text_ids),
                noisy=interpolate(x, noise, t),
                t=t,
                representation=targets[index] if targets is not None and has_tokens else None,
                representation_dropped=dropped[rows].to(device) if has_tokens else None,
                size=group.size,
            )
        )
        following = group.text_ids[:, 1:]
        learned = (following != tokens.pad) & ~text_dropped.to(device)[:, None]
        words.append(following.masked_fill(~learned, IGNORE) if objective.caption_loss else torch.full_like(following, IGNORE))
        counts["flow"] += x.numel()
        counts["alignment"] += 0 if model.alignment is None else x.shape[0] * x.shape[1]
        if targets is not None and model.representation is not None:
            counts["representation"] += model.representation.loss_count(targets[index], dropped[rows])
        clean.append(x)
        all_dropped.append(dropped)
        all_rows.append(rows)
    understanding = []
    for group in (own_part(whole, ranks) for whole in batch.understanding):
        if len(group.text_ids):
            understanding.append(UnderstandingInput(group.images, group.text_ids))
            ignored = group.text_ids == tokens.pad if group.answer_mask is None else ~group.answer_mask
            words.append(group.text_ids.masked_fill(ignored, IGNORE)[:, 1:])
    counts["text"] = int(sum((item != IGNORE).sum() for item in words))
    masked_images = None
    if batch.masked_images is not None:
        count, pixels = len(batch.masked_images), batch.masked_images.shape[1:].numel()
        rows = ranks.rows(count)
        patches = (batch.masked_images.shape[-1] // model.encoder.patch_size) ** 2
        masked = (torch.rand(count, patches, generator=generator) < MaskedImageHead.MASK_RATIO)[rows]
        masked_images = (batch.masked_images[rows].to(model.text_embedding.weight.dtype), masked.to(device))
        counts["masked_image"] = int(masked.sum()) * pixels // patches
    return Drawn(generation, understanding, clean, targets, all_dropped, all_rows, words, masked_images, {**counts, "router": 1})


def pack_losses(
    model: RFModel,
    drawn: Drawn,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    masked_head: MaskedImageHead | None = None,
) -> dict[str, Tensor]:
    """Runs the model once. Returns each term's sum over this rank's elements, float32; terms that it has none of are zero.

    Args:
        generator: the one that drew, for the noise of continuous tokens.
    """
    nothing = torch.zeros((), device=model.text_embedding.weight.device)
    sums = dict.fromkeys(drawn.counts, nothing)
    if drawn.generation or drawn.understanding:
        output = model(drawn.generation, drawn.understanding)
        for index, (given, own, clean) in enumerate(zip(drawn.generation, output.generation, drawn.clean, strict=True)):
            sums["flow"] = sums["flow"] + velocity_loss(own.clean, clean, given.noisy, given.t, objective.min_one_minus_t)[0]
            if drawn.targets is not None and model.representation is not None:
                assert own.representation is not None
                values, dropped, rows = drawn.targets[index], drawn.dropped[index], drawn.rows[index]
                term, _ = model.representation.loss(own.representation, values, dropped, objective, generator, rows)
                sums["representation"] = sums["representation"] + term
            if own.aligned is not None:
                assert drawn.targets is not None
                assert model.alignment is not None
                sums["alignment"] = sums["alignment"] + model.alignment.loss(own.aligned, drawn.targets[index])[0]
        texts = [own.text_hidden for own in output.generation] + output.understanding
        hidden = torch.cat([states[:, :-1].flatten(0, 1) for states in texts])
        targets = torch.cat([words.flatten() for words in drawn.words])
        learned = (targets != IGNORE).nonzero()[:, 0]
        sums["text"] = model.text_cross_entropy(hidden[learned], targets[learned])
        sums["router"] = output.balance
    if drawn.masked_images is not None:
        assert masked_head is not None
        if len(drawn.masked_images[0]):
            sums["masked_image"] = masked_head(model.encoder, *drawn.masked_images)[0]
    return sums


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
        "router": config.objective.router_weight,
    }
