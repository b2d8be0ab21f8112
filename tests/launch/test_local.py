"""The launcher against real processes: order, failures, resuming, signals, and launchers beside or after one another."""

import io
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.core.files import read_json
from rf_repro.core.run_lock import lock_holder
from rf_repro.launch.display import PlainDisplay
from rf_repro.launch.jobs import LocalJob, RunJob
from rf_repro.launch.local import Failure, in_order_of_start, run_plan
from rf_repro.launch.plan import Job, Plan, make_plan
from tests.launch.workers import STEPS, Count, Orphan, longer_smoke, smoke_plan
from tests.waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def jobs_can_import_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def launch(plan: Plan, jobs: int = 2, output: io.StringIO | None = None, **settings: object) -> tuple[list[Failure], str]:
    output = output or io.StringIO()
    failures = run_plan(plan, lambda job, threads, slot, ranks: Count(job, threads, **settings), PlainDisplay(output), jobs)  # type: ignore[arg-type]
    return failures, output.getvalue()


def launcher(runs: Path, jobs: int, *more: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """A launcher in a process of its own, the leader of a group as a shell would make it. `more`: of `tests.launch.workers`."""
    command = [*before, sys.executable, "-m", "tests.launch.workers", str(runs), str(jobs), *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def read_until(process: "subprocess.Popen[str]", words: str) -> None:
    """Reads what a launcher says until a line has these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended without {words!r}")


def attempts(job: Job) -> list[int]:
    """The step that each process which worked on the run began from."""
    return [attempt.from_step for attempt in job.run.record().attempts]


def environment(job: Job) -> list[str | None]:
    """OMP_NUM_THREADS, OMP_WAIT_POLICY and CUDA_VISIBLE_DEVICES that the job saw."""
    return read_json(job.run.path / "environment.json")


def working(plan: Plan) -> list[Job]:
    """Variants at work, with at least one step done."""
    return [job for job in plan.jobs[1:] if job.state == "running" and job.run.metrics()]


def test_everything_runs_once_in_order_and_never_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    failures, output = launch(plan, jobs=2, seconds=0.1)
    assert failures == []
    assert [job.state for job in plan.jobs] == ["done"] * 5
    times = {job.name: [row["time"] for row in job.run.metrics()] for job in plan.jobs}
    stage, *variants = (times[job.name] for job in plan.jobs)
    assert all(len(rows) == STEPS for rows in times.values())
    assert max(stage) < min(min(rows) for rows in variants)
    for moment in (row for rows in variants for row in rows):
        assert sum(rows[0] <= moment <= rows[-1] for rows in variants) <= 2
    assert [job.run.record().attempts[0].threads for job in plan.jobs] == [1] * 5
    assert [environment(job)[:2] for job in plan.jobs] == [["1", "passive"]] * 5
    assert output.count("starts (") == 5

    failures, output = launch(plan)
    assert failures == []
    assert "starts" not in output  # submitting twice submits nothing new
    assert all(attempts(job) == [0] for job in plan.jobs)


def test_a_stage_that_all_wait_for_is_trained_by_all_places_at_once(tmp_path: Path) -> None:
    """Real runs of `smoke`: the first stage in two ranks, the VAE after it; and what two ranks train is what one trains."""
    jobs = [job for job in make_plan("smoke", ["table3a"], [0], tmp_path).jobs if job.kind in ("stage", "vae")]
    together, alone = Plan(tmp_path, tuple(jobs)), make_plan("smoke", ["table3a"], [0], tmp_path / "alone").jobs[0]
    seen: list[tuple[str, int]] = []

    def make_call(job: Job, threads: int, slot: int, ranks: int) -> LocalJob:
        seen.append((job.variant, ranks))
        return LocalJob(RunJob(job, tmp_path, "cpu", threads), ranks=ranks)

    assert run_plan(together, make_call, PlainDisplay(io.StringIO()), jobs=2, may_share=True) == []
    assert seen == [("stage-pretrain", 2), ("stage-vae", 1)]
    stage = jobs[0].run
    assert [(attempt.ranks, attempt.error) for attempt in stage.record().attempts] == [(2, None)]
    RunJob(alone, tmp_path / "alone", "cpu", 1).work()
    for one, other in zip(stage.metrics(), alone.run.metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.01)  # bf16, where the machine has it


def test_a_rank_that_is_killed_fails_the_run(tmp_path: Path) -> None:
    """The first one does not wait for it."""
    job = make_plan("smoke", ["table3a"], [0], tmp_path).jobs[0]

    def make_call(job: Job, threads: int, slot: int, ranks: int) -> Orphan:
        return Orphan(RunJob(job, tmp_path, "cpu", threads), ranks=ranks)

    [failure] = run_plan(Plan(tmp_path, (job,)), make_call, PlainDisplay(io.StringIO()), jobs=2, may_share=True)
    assert failure.job == job
    assert job.state == "failed"


def test_the_longest_chain_of_a_seed_starts_first(tmp_path: Path) -> None:
    jobs = make_plan("smoke", ["table3a"], [0, 1], tmp_path, share_first_stage=True).jobs
    seconds = {"stage-pretrain": 5.0, "stage-vae": 1.0, "pixel": 6.0, "pixel_rf": 9.0, "vae": 7.0, "vae_rf": 8.5}
    ordered = in_order_of_start(jobs, {job.run.path: seconds[job.variant] for job in jobs})
    names = [job.name for job in ordered]
    assert names == ["stage-pretrain s0", "stage-vae s0", "pixel_rf s0", "vae_rf s0", "vae s0", "pixel s0",
                     "pixel_rf s1", "vae_rf s1", "vae s1", "pixel s1"]  # fmt: skip


@pytest.mark.parametrize("devices", [None, "", "2,3"])
def test_jobs_see_the_gpus_that_the_launcher_sees(tmp_path: Path, devices: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if devices is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    plan = smoke_plan(tmp_path)
    stage_only = Plan(plan.runs, plan.jobs[:1])
    assert launch(stage_only)[0] == []
    assert environment(plan.jobs[0])[2] == devices


def test_a_failed_run_is_reported_by_its_error_and_stops_no_other(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    failures, output = launch(plan, fail=("pixel s0",), die=("pixel_rf s1",))
    reasons = {failure.job.name: failure.reason for failure in failures}
    assert reasons == {
        "pixel s0": "ValueError: pixel s0 cannot count",
        "pixel_rf s1": "ended without a word: killed from outside, or out of memory",
    }
    for failure in failures:
        assert failure.log is not None
        assert failure.log.exists()
        assert str(failure.log) in output
    assert {job.name: job.state for job in plan.jobs} == {
        "stage-pretrain s0": "done", "pixel s0": "failed", "pixel_rf s0": "done", "pixel s1": "done", "pixel_rf s1": "resumable",
    }  # fmt: skip
    failures, output = launch(plan)  # the cause is mended: only these two run again
    assert failures == []
    assert [attempts(job) for job in plan.jobs] == [[0], [0, 0], [0], [0], [0, 0]]


def test_what_needs_a_failed_stage_is_not_started(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    failures, _ = launch(plan, fail=("stage-pretrain s0",))
    assert len(failures) == 5
    assert {failure.reason for failure in failures[1:]} == {"not started: it needs stage-pretrain, which failed"}
    assert all(job.state == "missing" for job in plan.jobs[1:])


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_launcher_ends_its_jobs_and_the_next_one_resumes_them(tmp_path: Path, kind: signal.Signals) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 2, str(tmp_path / "hold")) as process:
        wait_until(lambda: len(working(plan)) == 2, process)
        process.send_signal(kind)
        read_until(process, "stopping 2 run(s)")
        assert process.wait(SECONDS) == 128 + kind
    assert all(lock_holder(job.run.path) is None for job in plan.jobs)
    stopped = [job for job in plan.jobs if job.state == "resumable"]
    assert len(stopped) == 2
    failures, output = launch(plan)
    assert failures == []
    assert output.count("resumes") == 2
    assert [attempts(job) for job in stopped] == [[0, 1]] * 2
    assert attempts(plan.jobs[0]) == [0]  # what was done is not done again


def test_ctrl_c_in_a_terminal_is_the_launchers_alone(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole foreground group; jobs still end by unwinding, at the launcher's word."""
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 2, str(tmp_path / "hold")) as process:
        wait_until(lambda: len(working(plan)) == 2, process)
        logs = [next((job.run.path / "logs").glob("*.err")) for job in working(plan)]
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGINT
    assert all(lock_holder(job.run.path) is None for job in plan.jobs)
    for log in logs:
        assert "launch/jobs.py" in log.read_text()  # the job's own SIGTERM handler, and no other interrupt
        assert log.read_text().rstrip().endswith("KeyboardInterrupt")


def test_a_second_ctrl_c_kills_jobs_that_do_not_listen(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 1, str(tmp_path / "hold"), "deaf") as process:
        wait_until(lambda: working(plan), process)
        [job] = working(plan)
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping 1 run(s)")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGINT
    assert job.state == "resumable"


@pytest.mark.skipif(shutil.which("nohup") is None, reason="no nohup here")
def test_under_nohup_it_outlives_the_terminal_and_can_still_be_stopped(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 1, str(tmp_path / "hold"), before=("nohup",)) as process:
        wait_until(lambda: working(plan), process)
        [job] = working(plan)
        os.killpg(process.pid, signal.SIGHUP)  # as a terminal that is closed
        (tmp_path / "hold").touch()
        wait_until(lambda: job.state == "done", process)
        (tmp_path / "hold").unlink()
        wait_until(lambda: working(plan), process)
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping 1 run(s)")
        process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGINT


def test_a_launcher_killed_outright_leaves_runs_that_the_next_one_waits_for(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 2, str(tmp_path / "hold")) as process:
        wait_until(lambda: len(working(plan)) == 2, process)
        process.kill()
        process.wait()
    assert len(working(plan)) == 2
    waiting = "of another launcher works on it; waiting for it"

    class Output(io.StringIO):
        """Lets the orphans go on when the next launcher has seen both."""

        def write(self, text: str) -> int:
            written = super().write(text)
            if self.getvalue().count(waiting) == 2:
                (tmp_path / "hold").touch()
            return written

    failures, output = launch(plan, output=Output())
    assert failures == []
    assert output.count(waiting) == 2
    assert [job.state for job in plan.jobs] == ["done"] * 5
    assert all(attempts(job) == [0] for job in plan.jobs)  # nobody did a run's work twice


def test_an_adopted_run_that_is_killed_is_taken_over(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 1, str(tmp_path / "hold")) as process:
        wait_until(lambda: working(plan), process)
        process.kill()
        process.wait()
    [orphan] = working(plan)
    with launcher(tmp_path, 1) as second:
        read_until(second, "waiting for it")
        holder = lock_holder(orphan.run.path)
        assert holder
        os.kill(holder, signal.SIGKILL)
        second.communicate(timeout=SECONDS)
        assert second.returncode == 0
    assert orphan.state == "done"
    assert len(attempts(orphan)) == 2


def test_two_launchers_at_once_share_the_work(tmp_path: Path) -> None:
    plan = smoke_plan(tmp_path)
    with launcher(tmp_path, 2) as one, launcher(tmp_path, 2) as two:
        assert (one.wait(SECONDS), two.wait(SECONDS)) == (0, 0)
    assert [job.state for job in plan.jobs] == ["done"] * 5
    assert all(len(job.run.metrics()) == STEPS for job in plan.jobs)


def test_a_run_goes_on_from_one_whose_scores_failed_or_from_any_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run starts from must be trained, whatever else there is to do of it."""
    longer_smoke(monkeypatch)
    plan = make_plan("smoke", ["table1", "table3a"], [0], tmp_path / "runs", only=["pixel_rf"])
    plan.create()
    stage, row, beyond = plan.jobs
    stage.run.write_record(replace(stage.run.record(), status="done"))
    row.run.write_record(replace(row.run.record(), steps=row.steps))
    failures, _ = launch(plan, fail=(row.name,))
    assert [failure.job.name for failure in failures] == [row.name]
    assert beyond.state == "done"
    told = make_plan("smoke", ["table3b"], [1], tmp_path / "runs", only=["pixel_rf"], init_from=row.run.path)
    assert launch(told)[0] == []
    assert [job.state for job in told.jobs] == ["done"]
