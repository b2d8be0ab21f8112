"""The second example of docs/new_variant.md: a kind of representation in three files, through everything that asks of a kind."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rf_repro.representation
import rf_repro.representation.kinds
from ablations.registry import get_grid
from rf_repro.config.overrides import apply_overrides, from_dict
from rf_repro.config.registry import REPRESENTATIONS
from rf_repro.config.scales import get_scale, smoke
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.prepare import sample_tokens
from rf_repro.estimate.gpus import get_gpu
from rf_repro.estimate.plan import Cluster, own_stages
from rf_repro.experiment.run import run_variant
from rf_repro.model.rf_model import RFModel
from rf_repro.train.checkpoint import list_checkpoints, load_weights

TEXT = (Path(__file__).parents[1] / "docs" / "new_variant.md").read_text(encoding="utf-8").split("# A new kind")[1]
# Under another name: whoever follows the document has one of this name.
NAME = "residual_here"
FILES = dict(re.findall(r"^`([\w/.]+)`[^`]*\n\n```python\n(.*?)```", TEXT.replace("residual", NAME), re.DOTALL | re.MULTILINE))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExperimentConfig]:
    """The example's own row at `smoke`, its files in place."""
    for name, code in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    for package in (rf_repro.representation, rf_repro.representation.kinds):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / package.__name__.replace(".", "/"))])
    monkeypatch.setattr(
        rf_repro.representation.kinds.__spec__, "submodule_search_locations", rf_repro.representation.kinds.__path__
    )
    monkeypatch.chdir(tmp_path)
    yield get_grid("codes.py:CODES").variant("pixel_rf_two_codes").config(smoke())
    REPRESENTATIONS._added.pop(NAME)


def test_it_takes_three_files() -> None:
    assert list(FILES) == [f"rf_repro/representation/kinds/{NAME}.py", f"rf_repro/representation/{NAME}.py", "codes.py"]


def test_its_name_alone_is_refused() -> None:
    with pytest.raises(UserError, match=f"^representation.kind='{NAME}': must be one of continuous, discrete, none, repa"):
        apply_overrides(smoke(), {"representation.kind": NAME})


def test_the_kind_is_refused_where_its_file_is_gone(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that another checkout wrote: refused when it is read, and where the kind is asked for."""
    written = config.to_dict()
    monkeypatch.undo()
    REPRESENTATIONS._added.pop(NAME)
    for use in (lambda: from_dict(written), lambda: RFModel(config, 20)):
        with pytest.raises(UserError, match=f"^representation.kind='{NAME}': must be one of"):
            use()
    REPRESENTATIONS._added[NAME] = None  # type: ignore[assignment]  # which the fixture takes away


def test_estimates_and_packs_know_it(config: ExperimentConfig) -> None:
    base = apply_overrides(get_scale("base"), {"representation.kind": NAME})
    one, two = (
        own_stages(apply_overrides(get_scale("base"), {"representation.kind": kind}), Cluster(get_gpu("h200"), 8))[-1]
        for kind in ("discrete", NAME)
    )
    assert two.parameters.beside["codebook"] == 2 * one.parameters.beside["codebook"]
    assert two.flops["vq_assignment"].forward == pytest.approx(2 * one.flops["vq_assignment"].forward)
    assert two.memory.peak > one.memory.peak
    assert sample_tokens(base, "generation", 256, 256, 9) == 9 + 1 + 64 + 256  # half as many features a side as patches


@pytest.mark.slow
def test_it_is_trained_sampled_and_scored(config: ExperimentConfig, tmp_path: Path) -> None:
    run = run_variant(config, variant="pixel_rf_two_codes", seed=0, runs=tmp_path / "runs")
    assert run.record().status == "done"
    assert {"geneval", "geneval-ground-truth-representation", "questions"} <= set(run.eval_names())
    first, *_, last = [row["loss/representation"] for row in run.metrics()]
    assert last < first
    weights = load_weights(list_checkpoints(run.checkpoints)[-1], ema=False)
    codes = config.representation.codebook_size
    assert weights["first.prototypes"].shape == weights["second.prototypes"].shape == (codes, config.model.encoder.width)
    assert weights["representation.identity.weight"].shape[0] == 2 * codes
    assert not torch.equal(weights["first.prototypes"], weights["second.prototypes"])
