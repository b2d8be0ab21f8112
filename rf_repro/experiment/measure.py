"""What machine this is, and how fast it does each unit of a run's work: behind the first line of `rf-repro reproduce`.

    python -P -m rf_repro.experiment.measure < REQUEST.json

reads {"device": NAME, "threads": NUMBER, "seconds": LIMIT, "runs": {KEY: {"config", "kind", "name"}}} and prints a JSON object:
what it found ("machine"); for each run that was measured within the limit the seconds of a step, of an image drawn or scored, of
a question answered ("speeds"); what there was to say ("told"). Or "error", where the device is not there.
The launcher starts as many of these at once as it will start runs, so that what they take from each other is counted.
"""

import io
import json
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rf_repro.compute.arithmetic import arithmetic
from rf_repro.compute.compiled import STEP_COMPILED, wants_compiling
from rf_repro.compute.devices import on_device, seconds, trying
from rf_repro.compute.ranks import ALONE
from rf_repro.config.overrides import from_dict
from rf_repro.config.prerequisites import Prerequisite
from rf_repro.core.errors import UserError
from rf_repro.experiment.run import make_trainer, make_training
from rf_repro.model.spaces import space_of
from rf_repro.model.vae import random_vae
from rf_repro.train.loop import TrainingLoop
from rf_repro.worlds import world_of

STEPS = 2


def measure(job: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """Seconds that each unit of a run's work takes, with random weights.

    Args:
        job: "config", "kind" (of a prerequisite, or "variant") and "name" of a run.

    Raises:
        DeviceFailed: the device cannot do it.
    """
    config = from_dict(job["config"])
    world = world_of(config)
    config = world.for_measuring(config)
    is_compiled = wants_compiling(config.parallel.compile, config.stages[-1].steps, device)
    config = replace(config, parallel=replace(config.parallel, compile="off"))  # compiling takes longer than all that is measured
    with trying(device):
        space = space_of(config.model).build(config.model, device, lambda: random_vae(config.model.vae).to(device))
        if job["kind"] != "variant":
            prerequisite = Prerequisite(job["kind"], job["name"], config)
            return {"step": _a_step(make_training(prerequisite, 0, device, (), {}, space, ALONE))}
        trainer = make_trainer(config, 0, device, None, None, space)
        step = _a_step(trainer) * (STEP_COMPILED if is_compiled else 1.0)
        return {"step": step} | dict(world.speeds(trainer))


def _a_step(trainer: TrainingLoop) -> float:
    trainer.begin()
    trainer.train_step()  # the first one makes what the others find
    return seconds(trainer.device, lambda: [trainer.train_step() for _ in range(STEPS)]) / STEPS


def describe(device: torch.device, wish: str) -> dict[str, Any]:
    """What computes: "system", "processor", "kind" of device, its name ("device"), "gpus" seen by this process, "arithmetic".

    Args:
        wish: `optim.precision` of what will run.
    """
    is_cuda = device.type == "cuda"
    return {
        "system": f"{platform.system().replace('Darwin', 'macOS')} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "gpus": torch.cuda.device_count() if is_cuda else 0,
        "kind": device.type,
        "arithmetic": arithmetic(wish, device),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


def main() -> None:
    begin, asked = time.monotonic(), json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    jobs = asked["runs"]
    speeds: dict[str, dict[str, float]] = {}

    def work(device: torch.device) -> dict[str, Any]:
        for key, job in jobs.items():
            if not speeds or time.monotonic() - begin < asked["seconds"]:
                speeds[key] = measure(job, device)
        return describe(device, from_dict(next(iter(jobs.values()))["config"]).optim.precision)

    told = io.StringIO()
    try:
        with redirect_stderr(told):
            found = on_device(asked["device"], work)
    except UserError as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"machine": found, "speeds": speeds, "told": told.getvalue().splitlines()}))


if __name__ == "__main__":
    main()
