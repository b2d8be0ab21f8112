"""FLOPs and tokens against PyTorch's own counter and against records of trained runs."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.scales import paper
from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.estimate.flops import Cost, step_flops
from rf_repro.estimate.parameters import count_parameters
from rf_repro.estimate.plan import find_grid
from rf_repro.model.spaces import space_of
from rf_repro.model.vae import KLAutoencoder, LatentSpace
from rf_repro.model.workload import Workload
from rf_repro.train.trainer import Trainer
from rf_repro.worlds import world_of
from tests.estimate.test_parameters import RECORDS
from tests.model.small import small_config
from tests.train.making import trainer_of

CPU = torch.device("cpu")
CASES = {
    "pixel": {"representation__kind": "none"},
    "pixel_rf": {},
    "vae_rf": {"model__pixel__space": "vae"},
    "repa": {"representation__kind": "repa", "representation__alignment__layer": 1},
    "continuous": {"representation__kind": "continuous"},
    "all_kinds": {
        "stages__joint__mixture__questions": 2, "stages__joint__mixture__text": 3, "stages__joint__mixture__masked_image": 2,
    },
    "additive_time": {"model__decoder__time_conditioning": "additive"},
    "experts": {"model__decoder__num_experts": 6, "model__decoder__num_active_experts": 2},
}  # fmt: skip
MATRICES, ATTENTION = ("mm", "addmm"), ("bmm", "baddbmm")


def workload(config: ExperimentConfig, stage: StageConfig, ranks: int) -> Workload:
    return world_of(config).workload(config, stage, ranks)


def make_trainer(config: ExperimentConfig) -> Trainer:
    space = None
    if config.model.pixel.space == "vae":
        vae = KLAutoencoder(config.model.vae)
        vae.initialise(0)
        space = LatentSpace(vae, config.model.pixel.patch_size)
    trainer = trainer_of(config, config.stages[-1], space=space)
    if trainer.targets is not None:
        trainer.targets.values.initialise(torch.randn(64, config.model.encoder.width), torch.Generator().manual_seed(0))
    return trainer


def estimated(config: ExperimentConfig, ranks: int = 1) -> dict[str, Cost]:
    stage = config.stages[-1]
    return step_flops(config, stage, count_parameters(config), workload(config, stage, ranks))


def counted(counter: FlopCounterMode, names: tuple[str, ...]) -> int:
    return sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if str(op).split(".")[1] in names)


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_that_pytorch_counts(name: str) -> None:
    """All matrix products of a forward pass exactly, attention as if nothing were masked, which is how the CPU computes it, and
    logits of what is learned alone; training within the few products whose input's gradient nobody needs. The counter sees no
    elementwise operation."""
    config = small_config(**CASES[name])
    trainer, costs = make_trainer(config), estimated(config)
    learned = learned_rows(trainer)
    work = workload(config, config.stages[-1], 1)
    decoder, encoder = config.model.decoder, config.model.encoder
    masked_out = work.total(lambda shape: shape.layout.length**2 - shape.pairs)
    extra = 4 * decoder.num_heads * decoder.head_dim * decoder.num_layers * masked_out
    in_encoders = 4 * encoder.width * encoder.num_layers * work.total(lambda s: s.encoded**2 + s.targets**2)
    if "masked_image_head" in costs:
        in_encoders += 4 * encoder.width * work.samples["masked_image"] * work.shapes["masked_image"][0].encoded ** 2

    with FlopCounterMode(display=False) as forward:
        (losses,) = trainer.losses(1)
    linear = sum(cost.forward for part, cost in costs.items() if part not in ("attention_scores", "vae_encode")) - in_encoders
    padding = costs["text_head"].forward * (1 - learned[0] / work.total(lambda shape: shape.predictions))
    linear -= padding
    if name == "continuous":  # of the sequences that are not dropped
        share = 1 - counted_drops(config) / config.stages[-1].mixture.generation
        linear -= (1 - share) * costs["representation_head"].forward
    assert counted(forward, MATRICES) == pytest.approx(linear, rel=1e-12)
    assert counted(forward, ATTENTION) == costs["attention_scores"].forward + extra + in_encoders
    assert counted(forward, ("convolution",)) == costs.get("vae_encode", Cost(0, 0)).forward

    with FlopCounterMode(display=False) as backward:
        losses.total.backward()
    expected = sum(cost.training - cost.forward for cost in costs.values()) + 2 * extra - 2 * padding
    assert backward.get_total_flops() == pytest.approx(expected, rel=0.02)


def learned_rows(trainer: Trainer) -> list[int]:
    """Fills with the rows that the text head is given."""
    rows: list[int] = []
    trainer.model.text_head.register_forward_hook(lambda head, inputs, output: rows.append(inputs[0].shape[0]))
    return rows


def counted_drops(config: ExperimentConfig) -> int:
    """Sequences of the first step whose representation is dropped, from the draws of `draw_pack` in their order."""
    from rf_repro.core.hashing import derive_seed
    from rf_repro.maths.flow import sample_times

    stage = config.stages[-1]
    generator = torch.Generator().manual_seed(derive_seed("step", stage.name, 0, 1))
    count = stage.mixture.generation
    sample_times(count, config.objective, generator)
    patches = (config.data.scenes.image_size // config.model.pixel.patch_size) ** 2
    torch.randn(count, patches, space_of(config.model).token_dim(config.model), generator=generator)
    torch.rand(count, generator=generator)
    return int((torch.rand(count, generator=generator) < config.objective.representation_drop).sum())


def test_a_stage_that_trains_the_connector_alone() -> None:
    config = small_config(stages__joint__trains="connector", stages__joint__mixture__generation=0,
                          model__pixel__space="none", representation__kind="none")  # fmt: skip
    trainer, costs = make_trainer(config), estimated(config)
    learned = learned_rows(trainer)
    work = workload(config, config.stages[-1], 1)
    with FlopCounterMode(display=False) as forward:
        (losses,) = trainer.losses(1)
    masked_out = work.total(lambda shape: shape.layout.length**2 - shape.pairs)
    decoder = config.model.decoder
    extra = 4 * decoder.num_heads * decoder.head_dim * decoder.num_layers * masked_out
    padding = costs["text_head"].forward * (1 - learned[0] / work.total(lambda shape: shape.predictions))
    assert forward.get_total_flops() == pytest.approx(sum(cost.forward for cost in costs.values()) + extra - padding, rel=1e-12)
    with FlopCounterMode(display=False) as backward:
        losses.total.backward()
    expected = sum(cost.training - cost.forward for cost in costs.values()) + 2 * extra - padding
    assert backward.get_total_flops() == pytest.approx(expected, rel=0.02)
    assert costs["encoder"].training == costs["encoder"].forward


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2]}")
def test_tokens_of_a_step_are_those_that_the_run_recorded(path: Path) -> None:
    record = json.loads(path.read_text())
    config = from_dict(json.loads((path.parent / "config.json").read_text()))
    assert workload(config, config.stages[-1], 1).num_tokens * record["steps"] == record["tokens"]


def test_pairs_are_those_of_the_attention_mask() -> None:
    config = small_config(stages__joint__mixture__text=1)
    for (shape,) in workload(config, config.stages[-1], 1).shapes.values():
        assert shape.pairs == int(shape.layout.may_attend().sum())


def test_ranks_share_the_step() -> None:
    config = small_config()
    one, two = estimated(config), estimated(config, ranks=2)
    for name, cost in one.items():
        assert two[name].training == pytest.approx(cost.training / 2), name


def test_packs_are_full_and_hold_the_shares() -> None:
    config = find_grid("pixel_rf").variant("pixel_rf").config(paper())
    for stage in config.stages[1:]:
        work = workload(config, stage, 32)
        assert work.num_tokens == pytest.approx(32_768)
        assert work.passes == 4  # 128 packs a step
        assert work.step_tokens == pytest.approx(128 * 32_768)
        assert work.samples["understanding"] == pytest.approx(4 * work.samples["text"])
        assert work.samples["generation"] == pytest.approx(2 * work.samples["understanding"], rel=0.12)  # what shares come from
        own = replace(work, samples={kind: work.samples[kind] for kind in ("understanding", "text")})
        assert own.num_tokens == pytest.approx(stage.understanding_tokens)
    largest = workload(config, config.stage("continued"), 128).shapes["generation"][-1]
    assert [largest.tokens(kind) for kind in ("text", "representation", "pixel")] == [512, 1 + 1024, 4096]
    assert largest.targets == 4096 + 5


def test_passes_multiply_the_cost_and_ranks_share_it() -> None:
    config = find_grid("pixel_rf").variant("pixel_rf").config(paper())
    stage, parameters = config.stage("joint"), count_parameters(config)
    few, many = (step_flops(config, stage, parameters, workload(config, stage, ranks)) for ranks in (32, 128))
    assert few.keys() == many.keys()
    for name, cost in few.items():
        assert cost.training == pytest.approx(4 * many[name].training)


def test_sizes_are_drawn_evenly_from_the_stage_s_range() -> None:
    """Means over an image drawn at a time agree with the closed form."""
    config = find_grid("pixel_rf").variant("pixel_rf").config(paper())
    stage = config.stage("continued")
    work = workload(config, stage, 128)
    sides = [shape.image_size for shape in work.shapes["generation"]]
    assert sides == list(range(512, 1025, 32))
    count = work.samples["generation"]
    assert work.tokens("pixel") == pytest.approx(count * sum((side / 16) ** 2 for side in sides) / len(sides))
    drawn = random.Random(0)
    packed = [workload(config, replace(stage, min_image_size=side, max_image_size=side), 128) for side in sides]
    tokens = pixels = 0.0
    for _ in range(20_000):  # a pack's tokens, sample by sample, with generation 8, understanding 4, text 1
        sample = drawn.choices(["generation", "understanding", "text"], [8, 4, 1])[0]
        shape = packed[drawn.randrange(len(sides))].shapes[sample][0]
        tokens += shape.layout.length
        pixels += shape.tokens("pixel")
    assert pixels / tokens == pytest.approx(work.tokens("pixel") / work.num_tokens, rel=0.02)


def test_extreme_packs_bound_what_any_pack_holds() -> None:
    config = find_grid("pixel_rf").variant("pixel_rf").config(paper())
    stage = config.stage("joint")
    packs = world_of(config).extreme_packs(config, stage, 128)
    assert len(packs) == (2 * 2 + 1) * 2 * 2  # of both parts
    assert all(pack.num_tokens == pytest.approx(32_768) for pack in packs.values())
    mean = workload(config, stage, 128)
    for quantity in ("encoded", "targets", "features", "predictions"):
        most = max(pack.total(lambda shape, name=quantity: getattr(shape, name)) for pack in packs.values())
        assert most > mean.total(lambda shape, name=quantity: getattr(shape, name))


def test_one_text_token_of_qwen3_30b_a3b() -> None:
    """5.46 GFLOP of matrices and 0.62 of the head forward, 0.786 MFLOP a key: counted independently, by hand."""
    config = find_grid("vlm_only").variant("vlm_only").config(paper())
    config = apply_overrides(config, {"stages.joint.mixture.understanding": 0})
    stage = config.stage("joint")
    work = workload(config, stage, 128)
    costs = step_flops(config, stage, count_parameters(config), work)
    per_token = {name: cost.forward / work.num_tokens for name, cost in costs.items()}
    assert per_token["attention"] + per_token["pool_understanding"] == pytest.approx(5.46e9, rel=1e-3)
    assert per_token["text_head"] == pytest.approx(0.62e9, rel=5e-3)
    assert per_token["attention_scores"] / ((512 + 1) / 2) == pytest.approx(0.786e6, rel=1e-3)
    assert all(cost.training == 3 * cost.forward for cost in costs.values())


def test_the_in_suite_vae_is_counted_without_computing_it() -> None:
    config = small_config(model__pixel__space="vae")
    with FlopCounterMode(display=False) as counter:
        KLAutoencoder(config.model.vae).posterior(torch.zeros(1, 3, 24, 24))
    assert space_of(config.model).encode_flops(config.model, 24) == counter.get_total_flops() > 0


def test_more_ranks_than_samples_and_samples_longer_than_a_pack_are_refused() -> None:
    with pytest.raises(UserError, match="4 samples of a kind at most for 5 GPUs"):
        workload(small_config(), small_config().stages[0], 5)
    config = apply_overrides(paper(), {"stages.continued.tokens_per_rank": 4096})
    with pytest.raises(UserError, match=r"=4096: leaves 614 to understanding \(.*=0.15\), and must leave 1536"):
        workload(config, config.stage("continued"), 8)
