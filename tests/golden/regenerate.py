"""The golden losses: three steps, in fp32 on one thread, of every kind of stage and optimiser, every term of every step.

They catch a change of any equation on the way: data, initialisation, targets, losses, gradients, optimiser, schedule. What
changes them changes what a run computes, so it must change `RESULTS_VERSION` too, which every run's hash holds. When a change
is meant, raise the version and write the losses anew:

    python -m tests.golden.regenerate
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.schema import RESULTS_VERSION, ExperimentConfig
from rf_repro.model.spaces import space_of
from rf_repro.model.vae import random_vae
from rf_repro.train.loop import TrainingLoop
from rf_repro.train.trainer import Trainer
from rf_repro.train.vae_trainer import VAETrainer
from rf_repro.worlds import world_of
from tests.model.small import small_config
from tests.train.making import CPU, pretraining_of, trainer_of

PATH = Path(__file__).parent / "losses.json"
STEPS = 3


def joint(**overrides: object) -> ExperimentConfig:
    """Written out here and in `small_config`, so that tuning a scale leaves the golden losses alone."""
    settings = {
        "stages__joint__decay_fraction": 0.8,
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
    return small_config(**(settings | overrides))


def first_stage(**overrides: object) -> ExperimentConfig:
    mixture = {"generation": 0, "understanding": 6, "questions": 4, "masked_image": 6}
    return joint(**{f"stages__joint__mixture__{kind}": count for kind, count in mixture.items()}, **overrides)


def trainer(config: ExperimentConfig) -> Trainer:
    space = space_of(config.model).build(config.model, CPU, lambda: random_vae(config.model.vae))
    return trainer_of(config, space=space)


def shared(config: ExperimentConfig, name: str) -> ExperimentConfig:
    """Of what a config starts from; in fp32, whatever arithmetic that has by itself."""
    found = next(run.config for run in shared_runs(config) if run.name == name)
    return apply_overrides(found, {"optim.precision": "fp32"})


def encoder(kind: str) -> TrainingLoop:
    settings = {"kind": kind, "batch_size": 8, f"{kind}_steps": STEPS}
    pretrained = joint(**{f"model__encoder__pretraining__{name}": value for name, value in settings.items()})
    return pretraining_of(shared(pretrained, "stage-encoder"))


def vae() -> TrainingLoop:
    config = joint(model__pixel__space="vae", model__vae__width=8, model__vae__steps=STEPS, model__vae__batch_size=8)
    config = shared(config, "stage-vae")
    return VAETrainer(config, 0, CPU, world_of(config).component_data(config)[0])


MUON = {"stages__joint__optimizer": "muon"}
LATENTS = {"model__pixel__space": "vae", "model__pixel__patch_size": 8, "model__vae__width": 8}
CASES: dict[str, Callable[[], TrainingLoop]] = {
    "encoder, dino": lambda: encoder("dino"),
    "encoder, siglip": lambda: encoder("siglip"),
    "vae": vae,
    "first stage": lambda: trainer(first_stage()),
    "first stage, muon": lambda: trainer(first_stage(**MUON)),
    "pixel": lambda: trainer(joint(representation__kind="none")),
    "pixel_rf": lambda: trainer(joint()),
    "pixel_rf, muon": lambda: trainer(joint(**MUON)),
    "pixel_rf, algorithm 1": lambda: trainer(joint(representation__balance="algorithm1")),
    "pixel_rf, experts": lambda: trainer(
        joint(model__decoder__num_experts=4, model__decoder__num_active_experts=2, objective__router_weight=0.01)
    ),
    "continuous": lambda: trainer(joint(representation__kind="continuous")),
    "repa": lambda: trainer(joint(representation__kind="repa", representation__alignment__layer=1)),
    "vae_rf": lambda: trainer(joint(**LATENTS)),
    "vlm_only": lambda: trainer(joint(model__pixel__space="none", representation__kind="none",
                                      stages__joint__mixture__generation=0, stages__joint__mixture__understanding=6)),
}  # fmt: skip


def golden_losses(case: str) -> list[dict[str, float]]:
    """The log of each step: the total, its terms and the gradient norm."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loop = CASES[case]()
        loop.begin()
        return [loop.train_step() for _ in range(STEPS)]
    finally:
        torch.set_num_threads(threads)


def recorded() -> dict[str, object]:
    """What the file holds: `results_version`, and `losses` by case."""
    found: dict[str, object] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def differs(case: str, name: str, found: float, before: float) -> bool:
    """By more than rounding: another instruction set or BLAS moves the last digits of float32, of gradients more of them. The
    loss of continuous tokens divides by 1 - t, for uniform times down to .05."""
    tolerance = 1e-4 if name == "grad_norm" else 3e-5 if case == "continuous" else 1e-6
    return abs(found - before) > tolerance * max(1.0, abs(before))


def main() -> None:
    losses = {case: golden_losses(case) for case in CASES}
    before = recorded() if PATH.exists() else {"results_version": None, "losses": {}}
    known = before["losses"]
    assert isinstance(known, dict)
    moved = [
        case
        for case, rows in losses.items()
        if case in known
        and any(
            row.keys() != old.keys() or any(differs(case, name, row[name], old[name]) for name in row)
            for row, old in zip(rows, known[case], strict=True)
        )
    ]
    if moved and before["results_version"] == RESULTS_VERSION:
        sys.exit(f"losses of {', '.join(moved)} moved: first raise RESULTS_VERSION in rf_repro/config/schema.py")
    PATH.write_text(json.dumps({"results_version": RESULTS_VERSION, "losses": losses}, indent=1) + "\n", encoding="utf-8")
    print(f"{PATH}: {len(losses)} cases, moved: {', '.join(moved) or 'none'}")


if __name__ == "__main__":
    main()
