"""The time left: of a run, by what its files lack; of a plan, by its order; of a machine, by measuring it."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.config.overrides import apply_overrides
from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, write_json
from rf_repro.launch import machine as module
from rf_repro.launch.display import PlainDisplay
from rf_repro.launch.forecast import Speed, pieces, seconds_left, time_of_all
from rf_repro.launch.jobs import LocalJob, RunJob
from rf_repro.launch.local import run_plan
from rf_repro.launch.machine import Machine, default_jobs, look_at, run_key
from rf_repro.launch.plan import Job, make_plan
from rf_repro.launch.progress import Watch
from tests.launch.workers import Count, smoke_plan

SPEED = Speed(step=2.0, draw=0.5, score=0.25, answer=0.125)


def pixel_rf(runs: Path) -> Job:
    [job] = [job for job in smoke_plan(runs).jobs if job.name == "pixel_rf s0"]
    return job


def test_a_run_has_left_what_its_files_lack(tmp_path: Path) -> None:
    """Of `smoke`: 30 steps, two points of 12 images and 8 questions on the way, 24 images at the end, drawn twice with R, and 16
    questions."""
    job = pixel_rf(tmp_path)
    ahead = 30 * 2.0 + 2 * 12 * (0.5 + 0.25) + 24 * 0.5 + 24 * 0.25 + 24 * (0.5 + 0.25) + (2 * 8 + 16) * 0.125
    assert seconds_left(job, SPEED) == ahead
    assert seconds_left(job, SPEED, step=10) == ahead - 20
    assert seconds_left(job, SPEED, step=15, phase="sample", done=8) == ahead - 30 - 4
    assert seconds_left(job, SPEED, step=15, phase="evaluate", done=8) == ahead - 30 - 12 * 0.5 - 2  # what is scored was drawn
    write_json(job.run.evals / "geneval-step000015.json", {})
    assert seconds_left(job, SPEED, step=15) == ahead - 30 - 12 * 0.75
    for piece in pieces(job):
        write_json(job.run.path / piece.record, {})
    assert seconds_left(job, SPEED, step=30) == 0


def test_other_runs_have_other_parts(tmp_path: Path) -> None:
    jobs = {job.variant: job for job in make_plan("smoke", ["all"], [0], tmp_path).jobs}
    records = {key: [Path(piece.record).stem.removeprefix("geneval-") for piece in pieces(job)] for key, job in jobs.items()}
    asked = ["questions-step000015", "questions-step000030"]
    assert records["vlm_only"] == [*asked, "questions"]
    on_the_way = ["step000015", asked[0], "step000030", asked[1]]
    assert records["pixel"] == [*on_the_way, "manifest", "geneval", "questions"]
    assert records["stage-pretrain"] == ["ground-truth", "mismatched"]
    assert records["stage-vae"] == ["vae-reconstruction"]
    assert records["stage-encoder"] == []


def test_a_watch_corrects_the_forecast_by_the_pace_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rf_repro.launch.progress.time.monotonic", lambda: now[0])
    job = pixel_rf(tmp_path)
    job.create(tmp_path)
    guess, measured = Watch(job), Watch(job, SPEED, is_measured=True)
    assert measured.remaining == seconds_left(job, SPEED)
    append_jsonl(job.run.metrics_path, {"step": 10, "loss": 1.0})  # an earlier attempt's

    def update() -> None:
        guess.update()
        measured.update()

    update()
    assert guess.remaining is None
    assert measured.remaining == seconds_left(job, SPEED, 10)
    now[0] += 40  # ten steps in 40 seconds: twice as long as forecast
    append_jsonl(job.run.metrics_path, {"step": 20, "loss": 1.0})
    update()
    assert measured.pace == 2.0
    assert measured.remaining == 2 * seconds_left(job, SPEED, 20)
    assert guess.remaining == pytest.approx(40 / (10 * Speed().step) * seconds_left(job, Speed(), 20))
    assert measured.elapsed == 40
    write_json(job.run.path / "progress.json", {"phase": "sample", "done": 6, "total": 12})  # and as fast as forecast
    now[0] += 3
    update()
    assert measured.remaining == pytest.approx(43 / 23 * seconds_left(job, SPEED, 20, "sample", 6))


def test_runs_follow_each_other_in_the_slots_there_are(tmp_path: Path) -> None:
    stage, *variants = smoke_plan(tmp_path).jobs  # four variants after one stage
    waiting = [(job, float(10 * (index + 1))) for index, job in enumerate(variants)]  # 10, 20, 30, 40
    assert time_of_all({}, [(stage, 5.0), *waiting], 1) == 5 + 100
    assert time_of_all({}, [(stage, 5.0), *waiting], 2) == 5 + 60  # 10 then 30, 20 then 40
    assert time_of_all({}, [(stage, 5.0), *waiting], 9) == 5 + 40
    assert time_of_all({stage.run.path: 2.0}, waiting, 4) == 2 + 40
    assert time_of_all({variants[0].run.path: 7.0}, waiting[1:], 2) == 20 + 40  # 20 beside 7, and 30 after that
    assert time_of_all({}, [], 2) == 0


def fake_machine(speeds: Mapping[str, Speed], gpus: tuple[str, ...] = (), kind: str = "cpu", arithmetic: str = "bf16") -> Machine:
    return Machine("Linux x86_64", "A Processor", "NVIDIA X" if kind == "cuda" else kind, kind, arithmetic, gpus, speeds)


def test_the_first_line_says_what_computes_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    jobs = smoke_plan(tmp_path).jobs
    every_run = Speed(step=20.0, draw=0, score=0, answer=0)
    line = fake_machine({run_key(job): every_run for job in jobs}, arithmetic="fp32").describe(2, jobs)
    assert line == (
        "Linux x86_64, A Processor; on CPU, 8 cores in fp32 (it has no bf16 instructions); 5 runs, 2 at once, about 27 minutes"
    )
    assert (
        fake_machine({}, ("0", "1"), "cuda")
        .describe(2, jobs[:1])
        .startswith("Linux x86_64, A Processor; on 2 x NVIDIA X in bf16; ")
    )


def test_what_was_not_measured_is_taken_for_the_mean_of_its_kind(tmp_path: Path) -> None:
    stage, *variants = smoke_plan(tmp_path).jobs
    machine = fake_machine({run_key(stage): Speed(step=9.0), run_key(variants[0]): Speed(step=2.0)})
    assert machine.speed(stage).step == 9
    assert machine.speed(variants[1]).step == 2
    assert fake_machine({}).speed(stage) == Speed()


@pytest.mark.slow
def test_a_machine_is_measured_by_the_runs_own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURED_SECONDS", 600.0)  # enough for all of them, however busy it is
    jobs = make_plan("smoke", ["table3a"], [0, 1], tmp_path).jobs
    machine = look_at(jobs, "cpu", 1)
    assert machine is not None
    assert set(machine.speeds) == {run_key(job) for job in jobs}  # seeds share theirs
    assert (machine.kind, machine.gpus) == ("cpu", ())
    assert machine.arithmetic in ("bf16", "fp32")
    for speed in machine.speeds.values():
        assert min(speed.step, speed.draw, speed.score, speed.answer) > 0
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_device_that_is_not_there_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    jobs = make_plan("smoke", ["table3a"], [0], tmp_path).jobs
    with pytest.raises(UserError, match=r"--device (cuda|mps): torch .* finds none here; use --device auto or cpu"):
        look_at(jobs[:1], absent_device(), 1)


def absent_device() -> str:
    import torch

    return "mps" if torch.cuda.is_available() else "cuda"


@pytest.mark.parametrize(
    ("named", "count", "found"),
    [
        (None, 0, ()),
        (None, 3, ("0", "1", "2")),
        ("2,5", 2, ("2", "5")),
        ("GPU-a,GPU-b,GPU-a", 2, ("GPU-a", "GPU-b")),
        ("", 0, ()),
    ],
)
def test_gpus_are_called_what_the_environment_calls_them(
    named: str | None, count: int, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert module._visible_gpus(count) == found


@pytest.mark.slow
def test_runs_beside_each_other_have_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes; each notes the devices that it was given."""
    plan, gpus = smoke_plan(tmp_path), ("4", "7")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    taken: list[int] = []

    def make_call(job: Job, threads: int, slot: int, ranks: int) -> Count:
        taken.append(slot)
        return Count(job, threads, 0.1, devices=gpus[slot])

    assert not run_plan(plan, make_call, PlainDisplay(io.StringIO()), jobs=2)
    assert len(taken) == 5
    assert set(taken) == {0, 1}
    call = LocalJob(RunJob(plan.jobs[0], tmp_path, "auto", 1), "7")
    assert call.devices == "7"


@pytest.mark.parametrize(("cores", "gigabytes", "runs"), [(1, 64, 1), (2, 64, 2), (128, 64, 4), (8, 4, 2), (8, 1, 1)])
def test_runs_at_once_follow_from_cores_and_memory(
    cores: int, gigabytes: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    monkeypatch.setattr(module, "usable_bytes", lambda: gigabytes * 2**30)
    assert default_jobs() == runs


@pytest.mark.slow
def test_a_measurement_that_fails_says_why_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (vae,) = (job for job in make_plan("smoke", ["table3a"], [0], tmp_path).jobs if job.kind == "vae")
    broken = replace(vae, config=apply_overrides(vae.config, {"model.vae.batch_size": 2**40}))  # more than any memory holds
    assert look_at([broken], "cpu", 1) is None
    assert capsys.readouterr().err.startswith("measuring this machine failed: ")
