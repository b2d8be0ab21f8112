"""A world that nothing but a test knows goes through the same config, trainer, actions and records."""

from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.config.overrides import from_dict
from rf_repro.config.registry import WORLDS
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped, UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.experiment.run import run_variant
from tests.model.small import small_config
from tests.train.test_trainer import assert_same_run
from tests.worlds.plain_colors import PlainColors

# Times near noise, where the text alone tells the colour; fewer of them than by default and it would be learned later.
LEARNS = {"stages__joint__steps": 200, "stages__joint__learning_rate": 5e-3, "objective__time_mean": -1.5, "sampling__steps": 10,
          "optim__ema_decay": 0.95, "checkpoint_every": 100}  # fmt: skip


def config_of(**changes: object) -> ExperimentConfig:
    config = small_config(**{**LEARNS, **changes})
    return replace(config, data=replace(config.data, world="plain_colors"))


def test_it_takes_less_than_100_lines() -> None:
    source = (Path(__file__).parent / "plain_colors.py").read_text(encoding="utf-8")
    body = source[source.index("COLORS =") :]  # after its imports
    assert len([line for line in body.splitlines() if line.strip()]) < 100


def test_it_is_refused_where_nobody_knows_it() -> None:
    with pytest.raises(UserError, match=r"data\.world='plain_colors': must be one of image_text, scenes"):
        config_of()


@pytest.mark.parametrize("kind", ["discrete", "none"])
def test_it_trains_samples_and_is_scored(kind: str, tmp_path: Path) -> None:
    changes = {} if kind == "discrete" else {"representation__kind": kind}
    with WORLDS.added("plain_colors", PlainColors()):
        config = config_of(**changes)
        whole = run_variant(config, variant="variant", seed=0, runs=tmp_path / "whole")
        assert whole.record().status == "done"
        assert from_dict(whole.config()) == config
        assert ImageFolder(whole.samples).is_complete()
        result = whole.eval_result("colors")
        assert result is not None
        assert result.metrics["overall"] is not None
        assert result.metrics["overall"] >= 0.75  # of four colours; by chance 0.25
        losses = [row["loss/flow"] for row in whole.metrics()]
        assert losses[-1] < 0.7 * losses[0]

        # Stopped after its 7th step, it goes on with the same samples.
        steps = iter(range(10**6))
        with pytest.raises(Stopped):
            run_variant(config, variant="variant", seed=0, runs=tmp_path / "parts", stop=lambda: next(steps) == 6)
        parts = run_variant(config, variant="variant", seed=0, runs=tmp_path / "parts")
        assert_same_run(whole, parts, metrics=False)
        assert parts.eval_result("colors") == result
