"""Sharded training computes what one process computes: losses, gradients, weights, averages, moments, up to the order of sums."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rf_repro.compute.arithmetic import DTYPES
from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import (
    before_backward,
    checkpoint_activations,
    fill,
    is_sharded,
    is_sharding,
    layers_of,
    local,
    make_mesh,
    materialise,
    on_meta,
    shard,
    whole_tensors,
)
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.model.initialise import initial_values, initialise
from rf_repro.model.rf_model import RFModel
from rf_repro.train.ema import Average
from rf_repro.train.loop import StepLosses, TrainingLoop
from rf_repro.train.optim import MasterOptimizer
from tests.model.small import VOCAB, generation_input, small_config, small_model, understanding_input
from tests.train.processes import run_ranks
from tests.train.test_data_parallel import CASES as CASES_OF_RANKS
from tests.train.test_data_parallel import make

CPU = torch.device("cpu")
STEPS, PACKS = 3, 8
# A gradient of nothing but rounding moves AdamW by a whole step at eps = 1e-8, in either direction.
FULL = small_config(optim__eps=1e-3, parallel__sharding="fsdp", optim__grad_clip=0.05)
BF16 = replace(FULL, optim=replace(FULL.optim, precision="bf16"))
PAIRS = replace(FULL, parallel=replace(FULL.parallel, shard_group=2))
RECOMPUTED = replace(FULL, parallel=replace(FULL.parallel, activation_checkpointing=True))


class Packs(TrainingLoop):
    """Trains an RFModel on random packs, which ranks share out evenly; each step is made of micro-steps.

    Args:
        parts: of a micro-step, whose gradients are summed in float32: what so many ranks would compute.
    """

    can_share = True

    def __init__(
        self, config: ExperimentConfig, ranks: Ranks = ALONE, seed: int = 0, micro_steps: int = 1, parts: int = 1
    ) -> None:
        super().__init__(config, config.stages[0], seed, CPU, ranks=ranks)
        self.micro_steps, self.parts, self.started = micro_steps, parts, 0
        precision = DTYPES[config.optim.precision]
        self.model = RFModel(config, VOCAB)
        initialise(self.model, seed)
        fill(self.model, noisy_values(self.model, seed))
        if config.parallel.activation_checkpointing:
            checkpoint_activations(layers_of(self.model))
        if is_sharding(config.parallel, ranks):
            shard(self.model, make_mesh(config.parallel, ranks, "cpu"), precision)
        # Masters in float32 either way: where it is not sharded, copies of them in the wanted precision compute.
        self.frozen = {"encoder.mask_token": self.model.encoder.mask_token.requires_grad_(False)}
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = MasterOptimizer(trained, config.optim, self.stage, torch.float32, ranks)
        self.average = Average(self.masters(), config.optim.ema_decay, warm_up=True)
        self.target_average = Average(self.encoder(), 0.9, warm_up=False)
        self.codebook = torch.zeros(3, 2)
        self.count = torch.zeros((), dtype=torch.int64)

    def masters(self) -> dict[str, Tensor]:
        return {**self.optimizer.masters, **self.frozen}

    def encoder(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.masters().items() if name.startswith("encoder.")}

    def losses(self, step: int) -> Iterator[StepLosses]:
        packs = range(PACKS * step, PACKS * (step + 1))
        size = PACKS // self.micro_steps
        for index in range(self.micro_steps):
            mine = packs[index * size : (index + 1) * size][self.ranks.rows(size)]
            before_backward(self.model, is_last=index == self.micro_steps - 1)
            for part in range(self.parts):
                yield self._part(mine[Ranks(part, self.parts).rows(len(mine))])

    def _part(self, seeds: range) -> StepLosses:
        if self.optimizer.sharded:
            terms = Terms(self.model)(seeds)
        else:
            precision = DTYPES[self.config.optim.precision]
            copies = {f"model.{name}": master.to(precision) for name, master in self.masters().items()}
            terms = functional_call(Terms(self.model), copies, (seeds,))
        return StepLosses(terms, torch.stack(list(terms.values())).sum(), len(seeds))

    def stepped(self, step: int) -> None:
        self.target_average.update(self.encoder(), step)
        self.codebook += step
        self.count += 1

    def state(self) -> dict[str, Tensor]:
        targets = {f"target_{name}": tensor for name, tensor in self.target_average.values.items()}
        return {**self.masters(), **targets, "vq.codebook": self.codebook, "vq.count": self.count}

    def everything(self) -> dict[str, Tensor]:
        """What a checkpoint would hold, whole. Every rank calls it."""
        averages = {f"ema.{name}": tensor for name, tensor in self.average.values.items()}
        held = {**self.state(), **averages, **self.optimizer.named_state()}
        return {name: tensor.clone() for name, tensor in whole_tensors(held)}


class Terms(nn.Module):
    """Losses of packs, by seed: each two samples of generation, and, but of every third, one of understanding."""

    def __init__(self, model: RFModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, seeds: range) -> dict[str, Tensor]:
        generation = [generation_input(self.model, 2, 5, seed=seed) for seed in seeds]
        understanding = [understanding_input(self.model, 1, 4, seed=seed) for seed in seeds if seed % 3]
        output = self.model(generation, understanding)
        pairs = zip(output.generation, generation, strict=True)
        predicted = [F.cross_entropy(o.representation.float().flatten(0, 1), g.representation.flatten()) for o, g in pairs]
        nothing = output.generation[0].text_hidden.new_zeros(0, 32)
        hidden = torch.cat([nothing, *(states[:, :-1].flatten(0, 1) for states in output.understanding)])
        words = torch.cat([torch.zeros(0, dtype=torch.int64), *(item.text_ids[:, 1:].flatten() for item in understanding)])
        terms = {
            "flow": torch.stack([(own.clean - 0.1).square().mean() for own in output.generation]).sum(),
            "representation": torch.stack(predicted).sum(),
            "text": self.model.text_cross_entropy(hidden, words),
        }
        return {name: term / PACKS for name, term in terms.items()}


def noisy_values(model: nn.Module, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with noise, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        yield name, parameter + 0.15 * torch.randn(parameter.shape, generator=generator)


def train(ranks: Ranks, config: ExperimentConfig, micro_steps: int, parts: int = 1) -> dict[str, Any]:
    loop = Packs(config, ranks, micro_steps=micro_steps, parts=parts)
    logs = [loop.train_step() for _ in range(STEPS)]
    held = {name: local(tensor).numel() for name, tensor in loop.masters().items()}
    return {"logs": logs, "state": loop.everything(), "held": held, "names": [name for name, _ in loop.model.named_parameters()]}


def compare(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Logs and states; each tensor relative to its largest value."""
    for row, wanted in zip(found["logs"], expected["logs"], strict=True):
        assert row == pytest.approx(wanted, rel=tolerance)
    assert found["state"].keys() == expected["state"].keys()
    for name, tensor in expected["state"].items():
        scale = tensor.double().abs().max().clamp(min=1e-3)
        difference = float((found["state"][name].double() - tensor.double()).abs().max() / scale)
        assert difference < tolerance, f"{name}: {difference}"


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process computes in one pass over all packs of a step."""
    return train(ALONE, FULL, 1)


CASES = {
    "2 ranks": (FULL, 2, 1),
    "2 ranks, 4 micro-steps": (FULL, 2, 4),
    "2 ranks, activations recomputed": (RECOMPUTED, 2, 1),
    "2 ranks, bf16": (BF16, 2, 2),
    "4 ranks, 2 copies, 2 micro-steps": (PAIRS, 4, 2),
}


def train_cases(ranks: Ranks) -> dict[str, dict[str, Any]]:
    return {name: train(ranks, config, steps) for name, (config, size, steps) in CASES.items() if size == ranks.size}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Of each case, what every rank found."""
    found = {size: run_ranks(train_cases, size, tmp_path_factory.mktemp("ranks")) for size in (2, 4)}
    return {name: [rank[name] for rank in found[size]] for name, (_, size, _) in CASES.items()}


@pytest.mark.dist
@pytest.mark.parametrize("case", CASES)
def test_sharded_training_is_that_of_one_process(
    case: str, alone: dict[str, Any], trained: dict[str, list[dict[str, Any]]]
) -> None:
    (config, size, _), found = CASES[case], trained[case]
    if config.optim.precision == "bf16":  # one process that rounds to bf16 what each of two ranks would, in each micro-step
        alone = train(ALONE, BF16, 2, parts=2)
    for rank in found:
        compare(rank, alone, 2e-6)  # measured: 5e-7
        assert {tensor.dtype for tensor in rank["state"].values()} == {torch.float32, torch.int64}
        assert all(row["grad_norm"] > FULL.optim.grad_clip for row in rank["logs"])
        assert rank["names"] == alone["names"]
        for name, tensor in rank["state"].items():
            assert torch.equal(tensor, found[0]["state"][name])
    group = config.parallel.shard_group or size
    assert sum(sum(rank["held"].values()) for rank in found) * group == size * sum(alone["held"].values())
    assert max(sum(rank["held"].values()) for rank in found) < 1.2 * sum(alone["held"].values()) / group


TRAINER = {
    name: replace(CASES_OF_RANKS[name], parallel=RECOMPUTED.parallel)
    for name in ("discrete", "connector, which one rank has nothing for")
}


def train_stages(ranks: Ranks) -> dict[str, dict[str, Any]]:
    """The real trainer on the scenes world, from its seed."""
    found = {}
    for name, config in TRAINER.items():
        trainer = make(config, ranks)
        trainer.begin()
        logs = [trainer.train_step() for _ in range(3)]
        averages = {f"ema.{key}": tensor for key, tensor in trainer.averaged_state().items()}
        held = {**trainer.state(), **averages, **trainer.optimizer.named_state()}
        assert is_sharded(held.values()) == (ranks.size > 1)
        found[name] = {"logs": logs, "state": {key: tensor.clone() for key, tensor in whole_tensors(held)}}
    return found


@pytest.mark.dist
def test_the_trainer_too(tmp_path: Path) -> None:
    expected = train_stages(ALONE)
    for rank in run_ranks(train_stages, 2, tmp_path):
        for name, found in rank.items():
            compare(found, expected[name], 5e-6)  # measured: 2e-6, of a bias


def gradients(model: RFModel) -> dict[str, Tensor]:
    output = model([generation_input(model, 2, 5)], [understanding_input(model, 2, 4)])
    (output.generation[0].clean.square().sum() + output.understanding[0].square().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_recomputed_activations_give_the_same_gradients_in_less_memory() -> None:
    kept, recomputed = small_model(), small_model()
    checkpoint_activations(layers_of(recomputed))
    assert recomputed.state_dict().keys() == kept.state_dict().keys()
    saved: dict[str, int] = {}
    for name, model in (("kept", kept), ("recomputed", recomputed)):

        def count(tensor: Tensor, name: str = name) -> Tensor:
            saved[name] = saved.get(name, 0) + tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model([generation_input(model, 2, 5)], [understanding_input(model, 2, 4)])
    assert saved["recomputed"] < 0.6 * saved["kept"]
    first, second, third = gradients(kept), gradients(copy.deepcopy(recomputed)), gradients(recomputed)
    assert first.keys() == second.keys() == third.keys()
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name])
        assert torch.equal(gradient, third[name])  # once: a copy computes with its own parameters


def initialised(ranks: Ranks, config: ExperimentConfig, way: str) -> dict[str, Tensor]:
    """A model of seed 3, built in either way, whole."""
    if way == "from meta":
        with on_meta():
            model = RFModel(config, VOCAB)
        assert sum(p.numel() for p in model.parameters() if not p.is_meta) < 0.15 * sum(p.numel() for p in model.parameters())
        shard(model, make_mesh(config.parallel, ranks, "cpu"), torch.float32)
        materialise(model, CPU)
        fill(model, initial_values(model, 3))
    else:
        model = RFModel(config, VOCAB)
        initialise(model, 3)
        shard(model, make_mesh(config.parallel, ranks, "cpu"), torch.float32)
    with torch.no_grad():  # what was filled is what computes
        output = model([generation_input(model, 2, 5)], [understanding_input(model, 2, 4)])
    return {**dict(whole_tensors(dict(model.named_parameters()))), "text_hidden": output.generation[0].text_hidden}


@pytest.mark.dist
@pytest.mark.parametrize("way", ["from meta", "whole"])
def test_a_sharded_model_starts_from_the_values_of_its_seed(way: str, tmp_path: Path) -> None:
    model = RFModel(PAIRS, VOCAB)
    initialise(model, 3)
    expected = dict(model.named_parameters())
    with torch.no_grad():
        output = model([generation_input(model, 2, 5)], [understanding_input(model, 2, 4)])
    for found in run_ranks(initialised, 4 if way == "from meta" else 2, tmp_path, PAIRS, way):
        assert torch.equal(found.pop("text_hidden"), output.generation[0].text_hidden)
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_stream_of_another_model_is_refused() -> None:
    model = small_model()
    with pytest.raises(UserError, match=r"nothing \[2\]: the model has no such tensor"):
        fill(model, [("nothing", torch.zeros(2))])
    name, parameter = next(iter(model.named_parameters()))
    with pytest.raises(UserError, match=r"the model has no such tensor"):
        fill(model, [(name, parameter.detach()[None])])


def test_a_group_must_divide_the_ranks() -> None:
    config = replace(FULL.parallel, shard_group=4)
    with pytest.raises(UserError, match=r"parallel.shard_group=4: must divide the 6 ranks; choose 0 \(all\), 1, 2, 3, 6"):
        make_mesh(config, Ranks(0, 6), "cpu")


def muon(ranks: Ranks) -> str:
    config = replace(FULL, stages=(replace(FULL.stages[0], optimizer="muon"),))
    with pytest.raises(UserError) as error:
        Packs(config, ranks)
    return str(error.value)


@pytest.mark.dist
def test_muon_is_refused(tmp_path: Path) -> None:
    for message in run_ranks(muon, 2, tmp_path):
        assert message.startswith("stages.joint.optimizer=muon: works on whole matrices")
        assert message.endswith("choose adamw, or parallel.sharding=none")
