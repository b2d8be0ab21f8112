"""The whole path on an accelerator that this machine lacks: training, sampling and answers, with MPS and with CUDA.

What no emulation shows is how fast or how exact a device is, what its kernels refuse besides, and its memory.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.registry import GRIDS
from rf_repro.cli import main
from rf_repro.compute.ranks import joined_ranks
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.experiment.run import run_variant
from rf_repro.experiment.vlm import load_rf_vlm
from rf_repro.launch.machine import look_at
from rf_repro.launch.plan import make_plan
from rf_repro.train.vae_trainer import VAETrainer
from tests.support.emulated_device import GPU, Emulation, emulated_device


@pytest.fixture(params=["mps", "cuda"])
def emulation(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    with emulated_device(request.param) as emulation:
        yield emulation


@pytest.fixture
def mps() -> Iterator[Emulation]:
    with emulated_device("mps") as emulation:
        yield emulation


CHANGES = {
    "data.scenes.num_train": 256, "stages.pretrain.steps": 4, "stages.joint.steps": 6, "model.vae.steps": 4, "sampling.steps": 2,
    "evals.images_per_task": 1, "evals.curve_images_per_task": 1, "evals.every": 6, "representation.warmup_batches": 1,
}  # fmt: skip


TABLES = ("table3a", "table3b", "table3c")


OPTIONS = [word for path, value in CHANGES.items() for word in ("--set", f"{path}={value}")]


COMMANDS_OWN = "pixel"  # the run that the command makes; the others are made here, in one process


def variants(*tables: str) -> dict[str, ExperimentConfig]:
    found: dict[str, ExperimentConfig] = {}
    for table in tables:
        found |= GRIDS[table].configs("smoke", CHANGES)
    return found


def reproduce(kind: str, tables: str, runs: Path) -> list[str]:
    """What the command ran on the device."""
    log = runs / "operators"
    device = {"RF_TEST_EMULATED_DEVICE": kind, "RF_TEST_EMULATED_LOG": str(log)}
    command = [sys.executable, "-m", "rf_repro.cli", "reproduce", "--scale", "smoke", "--tables", tables, *OPTIONS,
               "--runs", str(runs), "--out", str(runs / "report")]  # fmt: skip
    done = subprocess.run(command, env=os.environ | device, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on with the CPU" not in done.stderr
    assert (runs / "report" / "report.html").exists()
    return log.read_text().split()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(scope="module")
def mps_runs(root: Path) -> Path:
    """Runs of all variants and stages on "mps"."""
    runs = root / "mps"
    with emulated_device("mps"):
        for variant, config in variants(*TABLES).items():
            if variant != COMMANDS_OWN:
                run_variant(config, variant=variant, seed=0, runs=runs)
    assert "aten::_fused_adamw_" in reproduce("mps", ",".join(TABLES), runs)
    return runs


def run_of(runs: Path, name: str) -> RunDir:
    (path,) = (runs / "smoke" / name).iterdir()
    return RunDir(path)


@pytest.mark.slow
def test_tables_3a_to_3c_on_mps(mps_runs: Path) -> None:
    names = {path.name for path in (mps_runs / "smoke").iterdir()}
    assert names == {*variants(*TABLES), "stage-pretrain", "stage-vae"}
    for name in names:
        record = run_of(mps_runs, name).record()
        assert record.status == "done"
        assert [(attempt.device, attempt.arithmetic) for attempt in record.attempts] == [("mps", "fp32")], name
    run = run_of(mps_runs, "pixel_rf")
    assert (run.evals / "codebook-probe.json").exists()
    assert (run.evals / "questions.json").exists()


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes in float32, as MPS, also where it has bf16."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")


def test_a_vae_trained_on_the_device_has_the_bits_of_the_cpu(emulation: Emulation) -> None:
    config = apply_overrides(variants("table3a")["vae"], {"optim.precision": "fp32", "model.vae.batch_size": 4})
    images = torch.randint(0, 256, (600, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = []
    for device in (emulation.device, torch.device("cpu")):
        trainer = VAETrainer(config, 0, device, images)
        for _ in range(2):
            trainer.train_step()
        trainer.finish()
        state.append({name: tensor.cpu() for name, tensor in trainer.averaged_state().items()})
    assert "aten::convolution_backward" in emulation.ran
    for name, tensor in state[1].items():
        assert torch.equal(state[0][name], tensor), name


def test_several_ranks_on_mps_are_refused_before_they_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch, mps: Emulation
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    for device in ("auto", "mps"):
        with pytest.raises(UserError, match="WORLD_SIZE=2: on MPS one process trains alone"), joined_ranks(device):
            pass


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_a_run_on_mps_learns_what_it_learns_on_the_cpu(mps_runs: Path, root: Path) -> None:
    """To rounding: on a CPU attention is computed otherwise, and Sinkhorn's sums are in float64. A run as short as this scores
    nothing on either."""
    runs = root / "cpu"
    copytree(mps_runs / "smoke" / "stage-pretrain", runs / "smoke" / "stage-pretrain")
    there = run_of(mps_runs, "pixel_rf")
    here = run_variant(variants("table3a")["pixel_rf"], variant="pixel_rf", seed=0, runs=runs, device="cpu")
    assert [attempt.arithmetic for attempt in here.record().attempts] == ["fp32"]
    (row,), (wanted,) = there.metrics(), here.metrics()
    for name in ("loss", "loss/flow", "loss/representation", "loss/text", "grad_norm", "codebook/usage", "codebook/perplexity"):
        assert row[name] == pytest.approx(wanted[name], rel=1e-3), name
    scores = [run.eval_result("geneval") for run in (there, here)]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0].metrics == scores[1].metrics


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_samples_of_mps_are_those_of_the_cpu(mps_runs: Path, tmp_path: Path, mps: Emulation) -> None:
    images = {}
    for device in ("cpu", "auto"):
        assert not mps.ran
        out = tmp_path / device
        words = ["--prompt", "a photo of a red circle", "--num", "2", "--out", str(out), "--device", device]
        assert main(["sample", str(run_of(mps_runs, "repa").path), *words]) == 0
        images[device] = [np.asarray(Image.open(path)).astype(int) for path in sorted(out.rglob("*.png"))]
    assert mps.ran
    assert len(images["auto"]) == 2
    assert np.abs(np.array(images["auto"]) - np.array(images["cpu"])).max() <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_answers_of_mps_are_those_of_the_cpu(mps_runs: Path, mps: Emulation) -> None:
    run = run_of(mps_runs, "pixel_rf")
    batch = SceneQuestions(variants("table3a")["pixel_rf"].data.scenes).held_out(1)
    asked = [(Image.fromarray(image), question) for image, question in zip(batch.images, batch.questions, strict=True)]
    there, here = (load_rf_vlm(run, device) for device in (mps.device, torch.device("cpu")))
    assert there.answer(asked, 4) == here.answer(asked, 4)
    choices = [(("yes",), ("no",))] * len(asked)
    assert np.allclose(there.choice_probabilities(asked, choices), here.choice_probabilities(asked, choices), atol=1e-5)


@pytest.mark.slow
def test_table_3a_on_cuda(mps_runs: Path, root: Path) -> None:
    """One variant with RF and its VAE are made there; the rest is done on the other device, and done is done."""
    runs = root / "cuda"
    for name in ("stage-pretrain", "pixel", "pixel_rf", "vae"):
        copytree(mps_runs / "smoke" / name, runs / "smoke" / name)
    assert "aten::_fused_adamw_" in reproduce("cuda", "table3a", runs)
    for name in ("stage-vae", "vae_rf"):
        record = run_of(runs, name).record()
        assert record.status == "done"
        assert [(attempt.device, attempt.arithmetic) for attempt in record.attempts] == [(GPU, "fp32")], name
    assert {attempt.device for attempt in run_of(runs, "pixel").record().attempts} == {"mps"}


@pytest.mark.slow
def test_a_device_that_fails_its_first_step_gives_way_to_the_cpu(tmp_path: Path) -> None:
    device = {"RF_TEST_EMULATED_DEVICE": "mps", "RF_TEST_EMULATED_BROKEN": "aten::addmm"}
    command = [sys.executable, "-m", "rf_repro.cli", "train", "--scale", "smoke", "--variant", COMMANDS_OWN, *OPTIONS,
               "--runs", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, env=os.environ | device, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("stage-pretrain", COMMANDS_OWN):
        run = run_of(tmp_path, name)
        assert f"{name} s0: mps failed, goes on with the CPU (log: {run.path / 'logs'})" in done.stderr.splitlines()
        attempts = run.record().attempts
        assert [attempt.device for attempt in attempts] == ["mps", "cpu"]
        assert (attempts[0].error or "").startswith("DeviceFailed: mps failed (NotImplementedError: The operator 'aten::addmm'")
        assert run.record().status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "aten::addmm"])
def test_a_measurement_finds_the_gpus_or_that_they_fail(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DEVICE", "cuda"), ("BROKEN", broken)):
        monkeypatch.setenv(f"RF_TEST_EMULATED_{name}", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    jobs = [job for job in make_plan("smoke", ["table3a"], [0], tmp_path, CHANGES).jobs if job.variant == COMMANDS_OWN]
    machine = look_at(jobs, "auto", 1)
    assert machine is not None
    assert (machine.kind, machine.gpus) == (("cpu", ()) if broken else ("cuda", ("5", "3")))
    told = capsys.readouterr().err
    assert told.startswith("cuda failed (RuntimeError: CUDA error: no kernel image") if broken else told == ""
    assert (f"2 x {GPU} in fp32" in machine.describe(2, jobs)) == (not broken)
