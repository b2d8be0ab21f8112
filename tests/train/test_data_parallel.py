"""Several ranks train what one trains: the same batch, draws, targets, losses, gradient and weights, up to the order of sums."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import TrainingDiverged, UserError
from rf_repro.train.trainer import Trainer
from rf_repro.train.vae_trainer import VAETrainer
from rf_repro.worlds import world_of
from tests.model.small import small_config
from tests.train.making import pretraining_of, trainer_of
from tests.train.processes import run_ranks

STEPS = 6
# A gradient of nothing but rounding (a key's bias has none) moves AdamW by a whole step at eps = 1e-8, in either direction.
EPS = {"optim__eps": 1e-3}
MANY = {
    **EPS,
    "stages__joint__mixture__generation": 7,
    "stages__joint__mixture__questions": 2,
    "stages__joint__mixture__text": 1,  # so that some rank has none
    "objective__representation_drop": 0.3,
    "objective__text_drop": 0.3,
    "objective__time_stratified": True,
}
CASES = {
    "discrete": small_config(representation__center=True, **MANY),
    "continuous": small_config(representation__kind="continuous", **MANY),
    "repa": small_config(representation__kind="repa", representation__center=True, **MANY),
    "none": small_config(representation__kind="none", objective__caption_loss=True, **MANY),
    "first stage": small_config(
        representation__kind="none", model__pixel__space="none", stages__joint__mixture__generation=0,
        stages__joint__mixture__masked_image=5, stages__joint__mixture__questions=2, **EPS,
    ),
    "masked images of one rank alone": small_config(stages__joint__mixture__masked_image=1, **EPS),
    "experts that no token of a rank chose": small_config(
        model__decoder__num_experts=8, model__decoder__num_active_experts=1, stages__joint__mixture__generation=3, **EPS
    ),
    "connector, which one rank has nothing for": small_config(
        representation__kind="none", stages__joint__trains="connector", stages__joint__mixture__generation=0,
        stages__joint__mixture__understanding=1, stages__joint__mixture__text=2, **EPS,
    ),
}  # fmt: skip
BF16 = small_config(
    **{**MANY, "optim__eps": 1e-6}, optim__precision="bf16", stages__joint__optimizer="muon", representation__center=True
)


def make(config: ExperimentConfig, ranks: Ranks = ALONE, seed: int = 0) -> Trainer:
    return trainer_of(config, seed=seed, ranks=ranks)


def train(ranks: Ranks, names: list[str]) -> dict[str, Any]:
    """Of each case: logs of the steps, metrics of the codebook, and everything that a checkpoint would hold."""
    found = {}
    for name in names:
        trainer = make({**CASES, "bf16, muon": BF16}[name], ranks)
        trainer.begin()
        logs = [trainer.train_step() for _ in range(STEPS)]
        state = (
            {f"ema.{key}": value for key, value in trainer.averaged_state().items()}
            | trainer.state()
            | trainer.optimizer.named_state()
        )
        found[name] = {
            "logs": logs,
            "codebook": trainer.extra_metrics(),
            "tokens": trainer.num_tokens,
            "state": {key: value.detach().clone() for key, value in state.items()},
        }
    return found


Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    """By number of ranks: what each of them found. Three ranks train one case only."""
    names = list(CASES)
    return {
        1: run_ranks(train, 1, tmp_path_factory.mktemp("one"), names),
        2: run_ranks(train, 2, tmp_path_factory.mktemp("two"), [*names, "bf16, muon"]),
        3: run_ranks(train, 3, tmp_path_factory.mktemp("three"), ["discrete"]),
    }


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of two states relative to each tensor's largest value, and whose it is."""
    assert found.keys() == expected.keys()
    worst = []
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert found[name].dtype == tensor.dtype
        worst.append(
            (float((found[name].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp(min=1e-3)), name)
        )
    return max(worst)


@pytest.mark.dist
@pytest.mark.parametrize(("name", "size"), [*((name, 2) for name in CASES), ("discrete", 3)])
def test_ranks_train_what_one_process_trains(name: str, size: int, trained: dict[int, Found]) -> None:
    (alone,), together = trained[1], trained[size]
    expected = alone[name]
    for found in (rank[name] for rank in together):
        assert found["tokens"] == expected["tokens"]
        for key in found["codebook"]:
            if key.startswith("codebook/"):  # the same codes, all of them
                assert found["codebook"][key] == expected["codebook"][key], key
        for step, (row, wanted) in enumerate(zip(found["logs"], expected["logs"], strict=True), start=1):
            assert row.keys() == wanted.keys()
            for key, value in row.items():
                assert value == pytest.approx(wanted[key], rel=1e-5, abs=1e-6), f"step {step}: {key}"
        largest, where = difference(found["state"], expected["state"])
        assert largest < 1e-5, where  # measured: 3e-6 at most, in AdamW's moments


@pytest.mark.dist
@pytest.mark.parametrize(("name", "size"), [*((name, 2) for name in CASES), ("bf16, muon", 2), ("discrete", 3)])
def test_every_rank_holds_the_same_bits_and_logs_the_same_numbers(name: str, size: int, trained: dict[int, Found]) -> None:
    first, *others = (rank[name] for rank in trained[size])
    for other in others:
        assert other["logs"] == first["logs"]
        assert other["state"].keys() == first["state"].keys()
        for key, tensor in first["state"].items():
            assert torch.equal(other["state"][key], tensor), key


def without_gradient(ranks: Ranks) -> dict[str, set[str]]:
    """Of each case: the parameters that a rank's own samples give no gradient in the first step."""
    found = {}
    for name, config in CASES.items():
        trainer = make(config, ranks)
        trainer.begin()
        for part in trainer.losses(1):
            part.total.backward()
        found[name] = {key for key, master in trainer.optimizer.masters.items() if master.grad is None}
    return found


@pytest.mark.dist
def test_the_cases_are_what_they_are_called(tmp_path: Path) -> None:
    first, second = run_ranks(without_gradient, 2, tmp_path)
    lone = {name: first[name] ^ second[name] for name in CASES}  # a gradient on one rank alone
    assert any(key.startswith("masked_head.") for key in lone["masked images of one rank alone"])
    assert not any(lone[name] for name in CASES if name != "masked images of one rank alone")  # every way in is taken by all


@pytest.mark.dist
def test_the_comparison_notices_a_sample_too_few(trained: dict[int, Found], monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a rank lost a sample: one process that leaves out one of 13 is far from what 13 give."""
    (alone,) = trained[1]
    monkeypatch.setattr(Ranks, "rows", lambda self, count: slice(0, count - 1 if count == 7 else count))
    monkeypatch.setitem(CASES, "lost", CASES["none"])
    lost = train(ALONE, ["lost"])["lost"]
    assert difference(lost["state"], alone["none"]["state"])[0] > 1e-2
    assert lost["logs"][0]["loss/flow"] != pytest.approx(alone["none"]["logs"][0]["loss/flow"], rel=1e-3)


def diverge(ranks: Ranks) -> str:
    """One rank's weights go bad: what every rank says, before anything is stepped."""
    trainer = make(CASES["none"], ranks)
    trainer.train_step()
    if ranks.rank == 1:
        with torch.no_grad():
            trainer.model.get_parameter("pixels.head.bias")[0] = float("nan")
    before = {name: tensor.detach().clone() for name, tensor in trainer.masters().items()}
    with pytest.raises(TrainingDiverged) as error:
        trainer.train_step()
    assert all(torch.equal(t.nan_to_num(9), before[name].nan_to_num(9)) for name, t in trainer.masters().items())
    return str(error.value)


@pytest.mark.dist
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path) -> None:
    assert run_ranks(diverge, 2, tmp_path) == ["step 2: loss/flow is nan; lower the learning rate"] * 2


def test_more_ranks_than_generation_samples_are_refused() -> None:
    config = small_config(stages__joint__mixture__generation=3)
    with pytest.raises(
        UserError, match=r"stages.joint.mixture.generation=3: fewer samples a step than the 4 ranks; start at most 3"
    ):
        make(config, Ranks(0, 4))


def test_what_trains_in_one_process_says_so() -> None:
    config = small_config()
    images, _ = world_of(config).component_data(config)
    with pytest.raises(UserError, match=r"VAETrainer: 2 ranks; .* run it with one task"):
        VAETrainer(config, 0, torch.device("cpu"), images, Ranks(0, 2))
    with pytest.raises(UserError, match=r"EncoderPretraining: 2 ranks; .* run it with one task"):
        pretraining_of(config, ranks=Ranks(1, 2))
