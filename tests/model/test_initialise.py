"""What variants share starts from the same bits, and a shared stage's weights go everywhere they belong."""

import pytest
import torch

from rf_repro.compute.sharding import fill
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.model.initialise import initialise, is_generation, starting_values
from rf_repro.model.rf_model import RFModel
from tests.model.small import VOCAB, generation_input, largest_difference, run, small_config, small_model, understanding_input

PIXEL_RF = small_config()
PIXEL = small_config(representation__kind="none")
STAGE = small_config(
    representation__kind="none", model__pixel__space="none", stages__joint__mixture__generation=0
)  # as shared stages are


def built(config: ExperimentConfig, seed: int) -> RFModel:
    model = RFModel(config, VOCAB)
    initialise(model, seed)
    return model


def test_what_pixel_and_pixel_rf_share_is_bitwise_equal() -> None:
    rf, pixel, other = built(PIXEL_RF, 3).state_dict(), built(PIXEL, 3).state_dict(), built(PIXEL, 4).state_dict()
    assert set(pixel) < set(rf)
    assert all("representation" in name for name in set(rf) - set(pixel))
    for name, tensor in pixel.items():
        assert torch.equal(tensor, rf[name]), name
    drawn = [name for name in pixel if name.endswith("qkv.weight")]
    assert drawn
    assert not any(torch.equal(pixel[name], other[name]) for name in drawn)


def test_no_two_parameters_share_their_draw() -> None:
    state = built(PIXEL_RF, 0).state_dict()
    assert not torch.equal(state["decoder.blocks.0.attention.qkv.weight"], state["decoder.blocks.1.attention.qkv.weight"])


@torch.no_grad()
def test_stated_scales_hold() -> None:
    config = small_config(model__decoder__width=128, model__decoder__ffn_width=256)
    model = built(config, 0)
    block = model.decoder.blocks[0]
    assert float(block.attention.qkv.weight.std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(block.attention.out.weight.std()) == pytest.approx(0.5 * 32**-0.5, rel=0.05)  # writes to the stream
    assert float(block.pools["understanding"].down.weight.std()) == pytest.approx(0.5 * 256**-0.5, rel=0.05)
    assert float(model.text_embedding.weight.std()) == pytest.approx(0.02, rel=0.05)


@torch.no_grad()
def test_a_fresh_generation_pathway_predicts_zero_and_ignores_time() -> None:
    model = built(PIXEL_RF, 0)
    ((output,), _) = run(model, [generation_input(model, 2, 5)], [])
    assert not output.clean.any()
    assert all(not block.modulation.weight.any() and not block.modulation.bias.any() for block in model.decoder.blocks)


def start_from(model: RFModel, state: dict[str, torch.Tensor]) -> None:
    fill(model, starting_values(model, state.items()))


@torch.no_grad()
def test_a_stage_fills_every_pool_from_the_understanding_pool_of_the_one_before() -> None:
    stage, model, fresh = small_model(STAGE, seed=1), built(PIXEL_RF, 0), built(PIXEL_RF, 0).state_dict()
    state = stage.state_dict()
    start_from(model, state)
    own = model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(own[name], tensor), name
    copied = 0
    for name, tensor in own.items():
        for pool in ("pixel", "representation"):
            for part in ("pools", "ffn_norms"):
                if f".{part}.{pool}." in name:
                    assert torch.equal(tensor, state[name.replace(f".{part}.{pool}.", f".{part}.understanding.")]), name
                    copied += 1
    assert copied == 2 * 2 * (2 + 1)  # layers x pools x (gate_up, down; norm)
    rest = [name for name in own if name not in state and ".pools." not in name and ".ffn_norms." not in name]
    assert rest
    assert all(torch.equal(own[name], fresh[name]) for name in rest)  # modulation, ways in and out: their own start
    question = understanding_input(model, 2, 5)
    assert largest_difference(run(model, [], [question])[1][0], run(stage, [], [question])[1][0]) == 0


def test_a_start_is_strict_both_ways() -> None:
    state = small_model(STAGE).state_dict()
    with pytest.raises(UserError, match=r"without a place decoder.surplus \[1\]"):
        start_from(built(PIXEL_RF, 0), {**state, "decoder.surplus": torch.zeros(1)})
    lacking = {name: tensor for name, tensor in state.items() if name != "connector.0.bias"}
    with pytest.raises(UserError, match=r"lacking connector.0.bias;"):
        start_from(built(PIXEL_RF, 0), lacking)
    with pytest.raises(UserError, match="without a place"):  # a stage with pixels does not fit a model without
        start_from(built(STAGE, 0), small_model(PIXEL).state_dict())


def test_generation_parameters_are_named_exactly() -> None:
    rf = {name for name, _ in RFModel(PIXEL_RF, VOCAB).named_parameters()}
    shared = {name for name, _ in RFModel(STAGE, VOCAB).named_parameters()}
    assert {name for name in rf if is_generation(name)} == rf - shared
