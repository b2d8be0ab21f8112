"""Training on packs of real data: the same for one rank as for two, sharded or not; resumed to the sample; each sample alone
gives what it gives in a pack."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import whole_tensors
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import PackedBatch, TextTokens
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.experiment.run import make_trainer
from rf_repro.model.space import PixelSpace
from rf_repro.train.objective import draw_pack, pack_losses
from rf_repro.train.trainer import Trainer
from tests.base_world import base_overrides, write_models
from tests.data import tiny_shards
from tests.model.small import largest_difference
from tests.train.processes import run_ranks

CPU = torch.device("cpu")
STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_shards, "png", noise)  # of one colour, all patches would tie for their codes
        # Of an image that comes twice in these steps two prototypes may start, which tie for its codes ever after.
        for task, count in (("generation", 240), ("understanding", 40), ("text", 20)):
            tiny_shards.write_source(folder / task, task, 2, count)
    return folder


def noise(width: int, height: int, value: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def config_of(folder: Path, **changes: Any) -> ExperimentConfig:
    """Scale `base` on the models and shards in the folder, the stage `joint` alone; fp32, so that sums compare."""
    sources = [{"name": task, "path": str(folder / task), "task": task} for task in ("generation", "understanding", "text")]
    overrides = base_overrides(folder) | {
        "representation.kind": "discrete", "data.sources": sources, "data.filters.min_side": 8, "optim.eps": 1e-4,
        "stages.joint.tokens_per_rank": 400,
    }  # fmt: skip
    config = apply_overrides(get_scale("base"), overrides)
    config = replace(config, stages=(replace(config.stage("joint"), steps=STEPS),))
    return apply_overrides(config, {name.replace("__", "."): value for name, value in changes.items()})


def make(config: ExperimentConfig, ranks: Ranks = ALONE) -> Trainer:
    return make_trainer(config, 0, CPU, None, None, PixelSpace(config.model.pixel.patch_size), ranks)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in whole_tensors(tensors)}


def train(ranks: Ranks, config: ExperimentConfig) -> dict[str, Any]:
    trainer = make(config, ranks)
    trainer.begin()
    logs = [trainer.train_step() for _ in range(STEPS)]
    return {"logs": logs, "state": whole(trainer.state()), "ema": whole(trainer.averaged_state()), "tokens": trainer.num_tokens}


VARIANTS: dict[str, dict[str, Any]] = {
    "discrete": {},
    "continuous": {"representation__kind": "continuous"},
    "repa": {"representation__kind": "repa"},
    "vlm": {"representation__kind": "none", "model__pixel__space": "none", "stages__joint__mixture__generation": 0},
    "experts": {"model__decoder__pretrained": "", "model__decoder__num_experts": 4, "model__decoder__num_active_experts": 2,
                "objective__router_weight": 0.01},
}  # fmt: skip


def variant(folder: Path, name: str, **more: Any) -> ExperimentConfig:
    tokenizer = {"data__tokenizer": str(folder / "backbone")} if name == "experts" else {}
    return config_of(folder, **VARIANTS[name], **tokenizer, **more)


SHARDED = {"parallel__sharding": "fsdp", "parallel__activation_checkpointing": True}
CASES = [("discrete", {}), ("discrete", SHARDED), ("experts", SHARDED), ("vlm", SHARDED), ("continuous", {}), ("repa", SHARDED)]


def train_all(ranks: Ranks, configs: list[ExperimentConfig]) -> list[dict[str, Any]]:
    return [train(ranks, config) for config in configs]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What one rank finds in each case, and what each of two does."""
    configs = [variant(folder, name, **parallel) for name, parallel in CASES]
    ranks = run_ranks(train_all, 2, tmp_path_factory.mktemp("ranks"), configs)
    return [train_all(ALONE, configs), *ranks]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{name}, {'sharded' if how else 'copied'}" for name, how in CASES])
def test_two_ranks_train_what_one_trains(case: int, trained: list[list[dict[str, Any]]]) -> None:
    """One rank takes the step's packs one after the other, two take one each: accumulation and ranks change nothing."""
    alone, *both = (rank[case] for rank in trained)
    for found in both:
        assert found["tokens"] == alone["tokens"]
        for step, (row, expected) in enumerate(zip(found["logs"], alone["logs"], strict=True), start=1):
            assert row.keys() == expected.keys()
            for key, value in row.items():
                assert value == pytest.approx(expected[key], rel=2e-5, abs=1e-6), f"step {step}: {key}"
        for kind in ("state", "ema"):
            assert found[kind].keys() == alone[kind].keys()
            largest = max(largest_difference(tensor, alone[kind][key]) for key, tensor in found[kind].items())
            assert largest < 2e-5, kind


def test_a_stopped_run_goes_on_with_the_very_next_samples(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)

    def run_in(place: str) -> tuple[Trainer, RunDir, list[tuple[str, ...]]]:
        trainer = make(config)
        run = RunDir.create(tmp_path / place, config.to_dict(), config.result_hash(), config.scale, "pixel_rf", 0)
        seen: list[tuple[str, ...]] = []
        take = trainer.data.packs

        def noted(step: int) -> Any:
            batches = take(step)
            seen.append(tuple(key for pack in trainer.data._recent[-2:] for key in pack.keys))
            return batches

        trainer.data.packs = noted  # type: ignore[method-assign]
        return trainer, run, seen

    straight, run, expected = run_in("straight")
    straight.run(run)
    stopped, run, first = run_in("stopped")
    with pytest.raises(Exception, match="asked to stop"):
        stopped.run(run, stop=lambda: stopped.step == 1)
    resumed, run, rest = run_in("stopped")
    resumed.run(run)
    assert first + rest == expected
    for kind in ("state", "averaged_state"):
        own, wanted = getattr(resumed, kind)(), getattr(straight, kind)()
        assert all(torch.equal(own[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_pack_gives_the_losses_and_gradients_of_its_samples_one_by_one(name: str, folder: Path) -> None:
    """Samples of all sizes in one sequence; dropped and noised by one generator, so alone by the same draws."""
    config = apply_overrides(
        variant(folder, name),
        {"objective.text_drop": 0.4, "objective.representation_drop": 0.4},
    )
    trainer = make(config)
    trainer.begin()
    pack, *_ = trainer.data.packs(1)
    batch, generator = pack.batch, pack.generator
    targets = None if trainer.targets is None else trainer.targets.assign([batch])
    words = ImageTextTokenizer.from_config(config)
    tokens = TextTokens(words.pad_id, words.bos_id, words.null_id)
    model = trainer.model.float()
    drawn = draw_pack(model, trainer.space, batch, targets[0] if targets else None, config.objective, tokens, generator)
    noise = torch.Generator().manual_seed(5)  # of continuous tokens: read in the order of the samples, as alone
    sums = pack_losses(model, drawn, config.objective, noise)
    names = [key for key in sums if key != "router" and sums[key].requires_grad]
    together = gradients(model, sum(sums[key] for key in names))

    noise.manual_seed(5)
    alone = dict.fromkeys(sums, 0.0)
    apart: dict[str, Tensor] = {}
    pieces = [
        replace(drawn, generation=[given], understanding=[], clean=[drawn.clean[index]],
                targets=None if drawn.targets is None else [drawn.targets[index]], dropped=[drawn.dropped[index]],
                rows=[drawn.rows[index]], words=[drawn.words[index]])
        for index, given in enumerate(drawn.generation)
    ]  # fmt: skip
    first = len(drawn.generation)
    pieces += [
        replace(drawn, generation=[], understanding=[question], clean=[], targets=None, dropped=[], rows=[],
                words=[drawn.words[first + index]])
        for index, question in enumerate(drawn.understanding)
    ]  # fmt: skip
    assert len(pieces) > 5
    for piece in pieces:
        part = pack_losses(model, piece, config.objective, noise)
        for key in names:
            alone[key] += float(part[key].detach())
        for key, gradient in gradients(model, sum(part[key] for key in names)).items():
            apart[key] = apart[key] + gradient if key in apart else gradient
    for key in names:
        assert float(sums[key].detach()) == pytest.approx(alone[key], rel=1e-5), key
    for key, gradient in together.items():
        assert largest_difference(gradient, apart[key]) < 2e-5 * max(1.0, float(gradient.abs().max())), key


def gradients(model: torch.nn.Module, total: Any) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_ranks_must_divide_the_packs(folder: Path) -> None:
    with pytest.raises(UserError, match="packs_per_step=2: must be a multiple of the 3 ranks"):
        make(config_of(folder), Ranks(0, 3))


def test_a_batch_knows_its_tokens(folder: Path) -> None:
    trainer = make(config_of(folder))
    batch = trainer.data.packs(1)[0].batch
    assert isinstance(batch, PackedBatch)
    assert len({group.size for group in batch.generation}) > 2
    assert trainer.model.num_tokens(batch) == trainer.data._recent[0].num_tokens <= 400
