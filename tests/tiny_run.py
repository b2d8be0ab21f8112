"""A finished run of scale `base` without its training: tiny random models, whose weights are written as its last checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ablations.registry import GRIDS
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import run_name
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.records import Attempt
from rf_repro.core.run_dir import RunDir
from rf_repro.model.initialise import initialise
from rf_repro.model.rf_model import RFModel
from rf_repro.train.checkpoint_writer import CheckpointWriter
from tests.base_world import VOCAB, base_overrides
from tests.data.tiny_tokenizer import write_tiny_tokenizer

STEP = 3  # the last stage's end


def tiny_changes(folder: Path) -> dict[str, Any]:
    """Changes to scale `base`, as of `--set`: nothing pretrained is read, and the tokenizer is in `folder`."""
    if not (folder / "tokenizer.json").exists():
        assert write_tiny_tokenizer(folder) < VOCAB
    return base_overrides(folder) | {
        "model.decoder.pretrained": "",
        "model.encoder.pretrained": "",
        "data.tokenizer": str(folder),
        "data.caption_tokens": 40,
    }


def write_run(runs: Path, variant: str, changes: dict[str, Any], seed: int = 0) -> RunDir:
    """The run of that name at scale `base` with those changes. Weights follow from `seed`."""
    base = apply_overrides(get_scale("base"), changes)
    rows = ((grid, row) for grid in GRIDS.values() for row in grid.rows)
    config = next(grid.config(row, base) for grid, row in rows if run_name(row.key, grid.schedule(base)) == variant)
    run = RunDir.create(runs, config.to_dict(), config.result_hash(), config.scale, variant, seed)
    weights = random_weights(config, seed)
    averages = {name: tensor + 0.01 for name, tensor in weights.items()}
    CheckpointWriter().save(run.checkpoints, STEP, {"weights": weights, "ema": averages}, {})
    attempt = Attempt("2026-01-01T00:00:00+00:00", "host", 1, "cpu", 1, seconds=12.0)
    run.write_record(replace(run.record(), status="done", steps=STEP, tokens=70, attempts=[attempt]))
    return run


def random_weights(config: ExperimentConfig, seed: int) -> dict[str, torch.Tensor]:
    """Normal, of deviation 1 over the root of a matrix's inputs: larger than a fresh model's, so that every part shows in an
    image. What has one dimension is as built."""
    model = RFModel(config, config.model.decoder.vocab_size)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1 and not name.endswith("position"):
            tensor = torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5
        state[name] = tensor.clone()
    return state
