"""What two ranks of sharded training hold between steps, beside what the memory model says they hold."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rf_repro.compute.ranks import Ranks
from rf_repro.compute.sharding import local
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import tiny
from rf_repro.estimate.memory import CONTEXT_BYTES, pass_memory
from rf_repro.estimate.parameters import count_parameters
from rf_repro.estimate.plan import find_grid
from rf_repro.worlds import world_of
from tests.estimate.live_bytes import LiveBytes
from tests.estimate.test_memory import EXPERTS, held
from tests.train.processes import run_ranks
from tests.train.test_data_parallel import make

CONFIG = find_grid("pixel_rf").variant("pixel_rf").config(
    apply_overrides(tiny(), {**EXPERTS, "data.scenes.num_train": 512, "parallel.sharding": "fsdp",
                             "stages.joint.optimizer": "adamw", "stages.joint.mixture.generation": 4})
)  # fmt: skip


def held_bytes(ranks: Ranks) -> int:
    """Bytes of this rank after a step."""
    trainer = make(replace(CONFIG, stages=CONFIG.stages[-1:]), ranks)
    assert trainer.targets is not None
    trainer.targets.values.initialise(torch.randn(64, CONFIG.model.encoder.width), torch.Generator().manual_seed(0))
    trainer.train_step()
    return LiveBytes(map(local, held(trainer))).live


@pytest.mark.dist
def test_states_of_two_ranks_are_what_the_model_says(tmp_path: Path) -> None:
    """Float32 parameters, moments, averages in halves; codebook and the copy of the target encoder whole. Parts are padded where
    a size is odd."""
    stage = CONFIG.stages[-1]
    states = pass_memory(CONFIG, stage, count_parameters(CONFIG), world_of(CONFIG).workload(CONFIG, stage, 2)).states
    for measured in run_ranks(held_bytes, 2, tmp_path):
        assert measured == pytest.approx(sum(states.values()) - CONTEXT_BYTES, rel=2e-3)
