"""From the rows of a grid to arrays and dependencies, without SLURM: what would be submitted, and in which shape."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.records import Attempt
from rf_repro.launch.jobs import RunJob
from slurm.jobs import SlurmJob
from slurm.profile import load_profile
from slurm.queue import QueuedJob
from slurm.requeue import Requeue
from slurm.state import Row, read_rows
from slurm.submission import Element, Ledger, Request
from slurm.submit import dependency, group_rows
from slurm.sweep import Sweep, all_sweeps, dry_run, select
from slurm.table import make_console, status_table
from tests.launch.workers import longer_smoke

PHOTOS = {"data.sources": [{"name": "photos", "path": "/photos"}]}
PROFILE = load_profile("cpu")


def request(tables: str = "table3a", seeds: list[int] | None = None, **changes: object) -> Request:
    plain = Request("smoke", tables.split(","), seeds, [], {}, True, "/nowhere/report", "cpu", None)
    return replace(plain, **changes)  # type: ignore[arg-type]


def look(ledger: Ledger, asked: Request, queue: dict[str, QueuedJob] | None = None) -> Sweep:
    return Sweep(ledger, asked, PROFILE, read_rows(asked.plan(ledger.runs), ledger, queue or {}, PROFILE), None)


def job(name: str, state: str = "PENDING") -> QueuedJob:
    return QueuedJob(name, state, "Priority", "0:00", "", "token")


def row_of(sweep: Sweep, slug: str) -> Row:
    return next(row for row in sweep.rows if row.job.slug == slug)


def states(row: Row) -> list[str]:
    return [one.state for one in row.actions.values()]


def calls(sweep: Sweep) -> list[str]:
    """The text of every sbatch call."""
    return dry_run(sweep)


def flag(text: str, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}=(.*)$", text, re.MULTILINE)
    return found[1].strip("'") if found else None


def test_a_new_grid_is_chained_action_by_action_and_ends_in_one_report(tmp_path: Path) -> None:
    texts = calls(look(Ledger(tmp_path), request(seeds=[0, 1])))
    got = [(flag(text, "job-name"), flag(text, "array"), flag(text, "dependency")) for text in texts]
    assert got == [
        ("rf-train", "0-1%2", None),  # stage-pretrain and stage-vae
        ("rf-train", "0-3%4", "afterok:<1:train>_0"),  # pixel and pixel_rf, two seeds
        ("rf-sample", "0-3%4", "aftercorr:<2:train>"),
        ("rf-evaluate", "0-3%4", "aftercorr:<3:sample>"),
        ("rf-train", "0-3%4", "afterok:<1:train>_0,afterok:<1:train>_1"),  # the VAE rows
        ("rf-sample", "0-3%4", "aftercorr:<5:train>"),
        ("rf-evaluate", "0-3%4", "aftercorr:<6:sample>"),
        ("rf-report", None, "afterany:<1:train>:<2:train>:<3:sample>:<4:evaluate>:<5:train>:<6:sample>:<7:evaluate>"),
    ]
    assert not any(tmp_path.iterdir())


ALL_STAGES = """
from dataclasses import replace
from ablations.table3a import TABLE3A
LONG = replace(TABLE3A, name="long", title="Long", last_stage=None)
"""


def test_stages_in_a_row_are_chained_element_by_element_in_a_bounded_number_of_calls(tmp_path: Path) -> None:
    """On real data, where training is all there is to a run, rows that go on to the scale's last stage have one before it."""
    (tmp_path / "long.py").write_text(ALL_STAGES)
    asked = request(f"{tmp_path / 'long.py'}:LONG", seeds=[0, 1], scale="base", overrides=PHOTOS)
    texts = calls(look(Ledger(tmp_path), asked))
    got = [(flag(text, "job-name"), flag(text, "array"), flag(text, "dependency")) for text in texts]
    assert got == [
        ("rf-train", None, None),  # the alignment, once
        ("rf-train", "0-7%8", "afterok:<1:train>"),  # joint, of four rows and two seeds
        ("rf-train", "0-7%8", "afterok:<1:train>,aftercorr:<2:train>"),  # continued
        ("rf-report", None, "afterany:<1:train>:<2:train>:<3:train>"),
    ]
    names = [
        [row.job.name for row in look(Ledger(tmp_path), asked).rows if row.job.kind == kind] for kind in ("own stage", "variant")
    ]
    keys = ("pixel", "pixel_rf", "vae", "vae_rf")
    assert names[0] == [f"{key} s{seed}" for seed in (0, 1) for key in keys]
    assert names[1] == [f"{key}-continued s{seed}" for seed in (0, 1) for key in keys]


def test_a_row_that_another_goes_on_from_is_one_run_of_both_tables(tmp_path: Path) -> None:
    asked = request("table1,table3b", seeds=[0, 1], scale="base", overrides=PHOTOS)
    ledger = Ledger(tmp_path)
    got = [(flag(text, "job-name"), flag(text, "array"), flag(text, "dependency")) for text in calls(look(ledger, asked))]
    assert got == [
        ("rf-train", None, None),  # the alignment, once
        ("rf-train", "0-5%6", "afterok:<1:train>"),  # joint, of three rows and two seeds
        ("rf-train", "0-1%2", "afterok:<1:train>,afterany:<2:train>"),  # continued, of one row: not the same elements
        ("rf-report", None, "afterany:<1:train>:<2:train>:<3:train>"),
    ]
    assert len({row.job.slug for row in look(ledger, asked).rows}) == len(look(ledger, asked).rows) == 1 + 2 * 4


def test_scoring_that_failed_keeps_no_run_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row that another one goes on from, the training alone is needed; a world that scores itself does more."""
    longer_smoke(monkeypatch)
    ledger, asked = Ledger(tmp_path), request("table1,table3a", seeds=[0], only=["pixel_rf"])
    plan = asked.plan(ledger.runs)
    plan.create()
    stage, row, beyond = plan.jobs
    assert [job.slug for job in plan.jobs] == ["stage-pretrain-s0", "pixel_rf-s0", "pixel_rf-continued-s0"]
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, action="sample", error="OSError: disk full", seconds=1.0)
    stage.run.write_record(replace(stage.run.record(), status="done", attempts=[attempt]))
    row.run.write_record(replace(row.run.record(), status="failed", steps=row.steps, attempts=[attempt]))
    assert beyond.after == (stage.run.path, row.run.path)
    sweep = look(ledger, asked)
    assert states(row_of(sweep, "pixel_rf-s0")) == ["done", "failed", "blocked"]
    assert states(row_of(sweep, "pixel_rf-continued-s0")) == ["missing"] * 3
    (group,) = sweep.groups()
    assert ([job.slug for job in group.jobs], group.after) == (["pixel_rf-continued-s0"], ((),))
    SlurmJob(RunJob(beyond, tmp_path, "cpu", 1), tmp_path, tmp_path / "again", 0)._check_turn()
    row.run.write_record(replace(row.run.record(), steps=row.steps - 1))
    with pytest.raises(UserError, match=r"pixel_rf-continued s0: needs .* which is not trained to its end"):
        SlurmJob(RunJob(beyond, tmp_path, "cpu", 1), tmp_path, tmp_path / "again", 0)._check_turn()


def test_a_row_of_an_older_request_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the newest one needs its training alone."""
    longer_smoke(monkeypatch)
    ledger = Ledger(tmp_path)
    for tables in ("table3a", "table1"):
        ledger.write_request(request(tables, only=["pixel_rf"]))
    monkeypatch.setenv("PATH", "/nowhere")  # a queue that is there would be asked
    rows = [row for sweep in all_sweeps(ledger) for row in sweep.rows]
    shown = {row.job.slug: list(row.actions) for row in rows}
    assert len(rows) == len(shown)
    assert shown["pixel_rf-s0"] == shown["pixel_rf-continued-s0"] == ["train", "sample", "evaluate"]
    assert [row.job.slug for _, row in select(all_sweeps(ledger), ["pixel_rf"])] == ["pixel_rf-s0"]


def test_what_a_batch_script_says(tmp_path: Path) -> None:
    text = calls(look(Ledger(tmp_path), request(seeds=[0, 1], max_parallel=2)))[1]
    assert flag(text, "array") == "0-3%2"
    assert flag(text, "kill-on-invalid-dep") == "yes"
    assert "#SBATCH --requeue" in text
    assert "wckey" not in text
    assert flag(text, "signal") == f"USR2@{PROFILE.signal_seconds}"
    srun = text.index("\nsrun ")
    assert text.index("\ncd ") < text.index("again=") < srun < text.index("scontrol requeue")
    assert "--kill-on-bad-exit=1" in text[srun : text.index("\n", srun + 1)]


def test_seeds_with_stages_of_their_own_wait_for_those_alone(tmp_path: Path) -> None:
    sweep = look(Ledger(tmp_path), request(seeds=[0, 1, 2], only=["pixel"], share_first_stage=False))
    got = [(flag(text, "job-name"), flag(text, "array"), flag(text, "dependency")) for text in calls(sweep)]
    assert got[:2] == [("rf-train", "0-2%3", None), ("rf-train", "0-2%3", "aftercorr:<1:train>")]
    assert len(got) == 5


@pytest.mark.parametrize(
    ("ids", "expression"),
    [
        ([["7"], ["7"]], "afterok:7"),
        ([["7_3"], ["7_3"]], "afterok:7_3"),
        ([["7_0"], ["7_1"], ["7_2"]], "aftercorr:7"),
        ([["7_1"], ["7_2"]], "afterany:7"),  # not the same indices
        ([["7_0"], ["8_1"]], "afterany:7:8"),
        ([["7_0", "9"], ["7_1", "9"]], "aftercorr:7,afterok:9"),
        ([[], []], None),
    ],
)
def test_dependencies(ids: list[list[str]], expression: str | None) -> None:
    known = {(Path(one), "train"): [one] for element in ids for one in element}
    assert dependency([[(Path(one), "train") for one in element] for element in ids], known) == expression


def test_done_and_queued_actions_are_not_submitted_again(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0], only=["pixel", "pixel_rf"])
    plan = asked.plan(ledger.runs)
    plan.create()
    stage, pixel, pixel_rf = plan.jobs
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, seconds=36.0)
    stage.run.write_record(replace(stage.run.record(), status="done", attempts=[attempt]))
    pixel.run.write_record(replace(pixel.run.record(), steps=pixel.steps, attempts=[replace(attempt, action="train")]))
    submission = ledger.new("train", [pixel.run.path, pixel_rf.run.path], asked, tmp_path)
    ledger.write(replace(submission, job_id="11"))
    sweep = look(ledger, asked, {"11_1": job("11_1", "RUNNING")})
    assert states(row_of(sweep, "pixel-s0")) == ["done", "missing", "missing"]
    assert states(row_of(sweep, "pixel_rf-s0")) == ["running", "missing", "missing"]
    got = [(flag(text, "job-name"), flag(text, "array"), flag(text, "dependency")) for text in calls(sweep)]
    assert got == [
        ("rf-sample", None, None),
        ("rf-evaluate", None, "afterok:<1:sample>"),
        ("rf-sample", None, "afterok:11_1"),  # behind what is in the queue
        ("rf-evaluate", None, "afterok:<3:sample>"),
        ("rf-report", None, "afterany:11:<1:sample>:<2:evaluate>:<3:sample>:<4:evaluate>"),
    ]


def test_failures_block_what_comes_after_them_until_they_are_asked_for_again(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0])
    plan = asked.plan(ledger.runs)
    plan.create()
    vae = next(one for one in plan.jobs if one.variant == "stage-vae")
    attempt = Attempt(
        "2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, action="train", seconds=1.0, error="TrainingDiverged: step 3"
    )
    vae.run.write_record(replace(vae.run.record(), status="failed", attempts=[attempt]))
    sweep = look(ledger, asked)
    assert states(row_of(sweep, "stage-vae-s0")) == ["failed"]
    assert row_of(sweep, "stage-vae-s0").actions["train"].reason == "TrainingDiverged: step 3"
    assert states(row_of(sweep, "vae-s0")) == ["blocked"] * 3
    assert row_of(sweep, "vae-s0").actions["train"].reason == "stage-vae s0 failed"
    assert states(row_of(sweep, "pixel-s0")) == ["missing"] * 3
    names = {job.variant for group in sweep.groups() for job in group.jobs}
    assert names == {"stage-pretrain", "pixel", "pixel_rf"}
    names = {job.variant for group in sweep.groups(again=True) for job in group.jobs}
    assert names == {"stage-pretrain", "stage-vae", "pixel", "pixel_rf", "vae", "vae_rf"}


def test_states_of_runs_that_were_cut_short(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0], only=["pixel"])
    plan = asked.plan(ledger.runs)
    plan.create()
    stage = plan.jobs[0]
    submission = ledger.new("train", [stage.run.path], asked, tmp_path)
    submission = replace(submission, job_id="5")
    ledger.write(submission)
    file = ledger.requeue_path(Element(submission, 0))
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, action="train", job_id="5")
    stage.run.write_record(replace(stage.run.record(), status="running", attempts=[attempt]))
    Requeue(True, "running", 1).write(file)
    assert states(row_of(look(ledger, asked), "stage-pretrain-s0")) == ["resumable"]  # cancelled, or its node is gone
    assert states(row_of(look(ledger, asked, {"5": job("5")}), "stage-pretrain-s0")) == ["queued"]
    Requeue(False, "running", 3).write(file)
    failed = row_of(look(ledger, asked), "stage-pretrain-s0").actions["train"]
    assert (failed.state, failed.reason) == ("failed", "cut short 4 times")


def test_runs_of_another_version_of_the_data_are_stale_and_left_alone(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0], only=["pixel"])
    plan = asked.plan(ledger.runs)
    plan.create()
    for one in plan.jobs:
        one.run.write_record(replace(one.run.record(), status="done", data_fingerprint="0" * 64))
    sweep = look(ledger, asked)
    assert {row.state for row in sweep.rows} == {"stale"}
    assert sweep.groups(again=True) == []


def test_a_job_whose_submitter_died_is_found_by_its_token(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0], only=["pixel"])
    stage = asked.plan(ledger.runs).jobs[0]
    submission = ledger.new("train", [stage.run.path], asked, tmp_path)
    assert states(row_of(look(ledger, asked), "stage-pretrain-s0")) == ["missing"]
    queue = {"31": replace(job("31"), comment=submission.token)}
    ledger.adopt(queue)
    assert states(row_of(look(ledger, asked, queue), "stage-pretrain-s0")) == ["queued"]


def test_arrays_stay_below_the_clusters_limit(tmp_path: Path) -> None:
    rows = look(Ledger(tmp_path), request(seeds=list(range(7)), only=["pixel"])).rows
    groups = group_rows(rows, PROFILE, max_array=3)
    assert [len(group.jobs) for group in groups] == [1, 3, 3, 1]
    assert len({job.run.path for group in groups for job in group.jobs}) == 8


def test_five_hundred_rows_are_a_few_calls(tmp_path: Path) -> None:
    """That the number of sbatch calls does not grow with the grid; `benchmarks/sweep.py` has the times."""
    small, large = (calls(look(Ledger(tmp_path), request(seeds=list(range(count))))) for count in (2, 125))
    assert len(small) == len(large) == 8
    assert sum(int(re.findall(r"0-(\d+)%", text)[0]) + 1 for text in large if flag(text, "job-name") == "rf-train") == 502


def test_a_long_reason_says_what_it_is_and_leaves_room_for_the_other_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, asked = Ledger(tmp_path), request(seeds=[0], only=["pixel"])
    plan = asked.plan(ledger.runs)
    plan.create()
    where = "/gpfs" + "/a-long-name" * 12 + "/step-000010/state.json"
    error = f"UserError: {where}: corrupt checkpoint (not the state that was written); {'delete this folder ' * 20}"
    attempt = Attempt("2026-01-01T00:00:00+00:00", "h", 1, "cpu", 1, action="train", seconds=1.0, error=error)
    stage = plan.jobs[0].run
    stage.write_record(replace(stage.record(), status="failed", attempts=[attempt]))
    make_console().print(status_table(look(ledger, asked).rows))
    said = capsys.readouterr().out
    assert "UserError: …step-000010/state.json: corrupt checkpoint (not the state" in said
    line = next(line for line in said.splitlines() if line.startswith("pixel-s0"))
    assert line.split()[:4] == ["pixel-s0", "blocked", "blocked", "blocked"]
