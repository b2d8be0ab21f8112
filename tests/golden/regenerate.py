"""The golden losses: 50 steps of small Pixel and Pixel+RF runs in fp32 on one thread, every term of every step.

They catch a change of any equation on the way: data, initialisation, targets, losses, gradients, optimiser, schedule. The
optimiser is AdamW, because Muon rounds to bf16 inside: with it, another BLAS moves losses by half a percent within 50 steps,
with AdamW by 2e-6. When a change is meant, write the losses anew and say why in the commit:

    python -m tests.golden.regenerate
"""

import json
from pathlib import Path

import torch

from rf_repro.config.schema import ExperimentConfig
from tests.model.small import small_config
from tests.train.making import trainer_of

FOLDER = Path(__file__).parent
STEPS = 50
VARIANTS = {"pixel": "none", "pixel_rf": "discrete", "continuous": "continuous", "repa": "repa"}  # by representation.kind


def golden_config(variant: str) -> ExperimentConfig:
    """Written out here and in `small_config`, so that tuning a scale leaves the golden losses alone."""
    overrides = {
        "stages__joint__steps": STEPS,
        "stages__joint__decay_fraction": 0.4,
        "stages__joint__encoder_lr_multiplier": 0.5,
        "stages__joint__text_weight": 0.5,
        "stages__joint__mixture__generation": 8,
        "stages__joint__mixture__questions": 2,
        "stages__joint__mixture__text": 1,
        "data__scenes__num_train": 256,
        "representation__codebook_size": 32,
        "representation__center": True,
        "objective__time_stratified": True,
    }
    if VARIANTS[variant] != "discrete":
        overrides["representation__kind"] = VARIANTS[variant]
    return small_config(**overrides)


def golden_losses(variant: str) -> list[dict[str, float]]:
    """The log of each step: the total, its terms and the gradient norm."""
    config = golden_config(variant)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = trainer_of(config)
        trainer.begin()
        return [trainer.train_step() for _ in range(STEPS)]
    finally:
        torch.set_num_threads(threads)


def path_of(variant: str) -> Path:
    return FOLDER / f"{variant}.json"


if __name__ == "__main__":
    for name in VARIANTS:
        rows = [{key: round(value, 7) for key, value in row.items()} for row in golden_losses(name)]
        path_of(name).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        print(f"{path_of(name)}: {len(rows)} steps, last loss {rows[-1]['loss']:.4f}")
