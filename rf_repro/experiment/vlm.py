"""A run as a vision-language model: what `--model RUN` names."""

import torch

from rf_repro.config.overrides import config_of
from rf_repro.core.run_dir import RunDir
from rf_repro.experiment.load import last_checkpoint, load_model
from rf_repro.sample.vlm import RFVisionLanguageModel
from rf_repro.train.checkpoint import step_of
from rf_repro.worlds import world_of


def load_rf_vlm(run: RunDir, device: torch.device) -> RFVisionLanguageModel:
    """The averaged weights of a run's last checkpoint, in the device's arithmetic. Questions and answers are images and text, so
    the understanding pool alone is loaded.

    Raises:
        UserError: the run has no checkpoint, or its tokenizer cannot be read.
    """
    config, record, checkpoint = config_of(run), run.record(), last_checkpoint(run)
    reader = world_of(config).reader(config)
    model = load_model(config, checkpoint, reader.vocab_size, device, ("understanding",))
    name = f"{record.scale}/{record.variant}/{record.config_hash[:12]}-s{record.seed}"
    return RFVisionLanguageModel(model, reader, f"run {name} step {step_of(checkpoint)}", step_of(checkpoint))
