"""What surrounds the command line and must not matter: other people's names, closed streams, temporary folders, a HOME."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rf_repro.core.import_path import PACKAGES, ROOT, job_environment
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import lock_holder
from tests.waiting import SECONDS, wait_until

CLI = (sys.executable, "-m", "rf_repro.cli")
TRAIN = ("train", "--scale", "smoke", "--variant", "pixel", "--device", "cpu")
FULL = "rf-repro: error: standard output: cannot write (No space left on device); free space or send it elsewhere\n"
HUGE = "rf-repro: error: scale 'huge': unknown; choose one of smoke, tiny, small, base, paper\n"
EVIL = "raise RuntimeError('not meant')\n"


def run(*command: str, cwd: Path, **variables: str | None) -> "subprocess.CompletedProcess[str]":
    """A command to its end. `variables`: of its environment; None takes one away."""
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS)


def python_path(*folders: Path | str) -> str:
    return os.pathsep.join(map(str, (*folders, os.environ["PYTHONPATH"])))


def a_folder_full_of_names(folder: Path) -> Path:
    """Plain folders, a package and modules, each of a name that something of ours imports."""
    for name in ("reports", "evaluators", "rf_repro", "tests"):
        (folder / name).mkdir(parents=True)
    (folder / "ablations").mkdir()
    for name in ("ablations/__init__", "slurm", "torch", "yaml", "submitit", "argparse"):
        (folder / f"{name}.py").write_text(EVIL)
    return folder


def copy_of_ours(folder: Path) -> Path:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return folder


def distribution(folder: Path, name: str, version: str, *files: str) -> None:
    """What pip writes about one."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at `smoke`, typed in a folder full of names, with another `slurm` on PYTHONPATH, and TMPDIR below a file."""
    folder = a_folder_full_of_names(tmp_path_factory.mktemp("typed") / "here")
    other = tmp_path_factory.mktemp("other") / "slurm"
    other.mkdir()
    (other / "__init__.py").write_text(EVIL)
    done = run(*CLI, *TRAIN, cwd=folder, PYTHONPATH=python_path(other.parent), TMPDIR=str(folder / "yaml.py" / "tmp"))
    assert done.returncode == 0, done.stderr
    return folder


def only_run(folder: Path, variant: str) -> RunDir:
    [path] = (folder / "runs" / "smoke" / variant).iterdir()
    return RunDir(path)


@pytest.mark.slow
def test_a_folder_full_of_names_is_as_good_as_any(smoke: Path) -> None:
    for variant in ("stage-pretrain", "pixel"):
        assert only_run(smoke, variant).record().status == "done"
    assert not list(smoke.rglob("*.pkl")) + list(smoke.rglob("*.tmp")) + list(smoke.rglob(".scratch*"))


@pytest.mark.parametrize("start", ["module", "torchrun"])
def test_the_command_line_starts_there_too(tmp_path: Path, start: str) -> None:
    folder = a_folder_full_of_names(tmp_path / "here")
    torchrun = ("-P", "-m", "torch.distributed.run", "--standalone", "--module")  # -P: as its script would be started
    command = CLI if start == "module" else (sys.executable, *torchrun, "rf_repro.cli")
    done = run(*command, "config", "smoke", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "scale: smoke"), done.stderr


WHERE = """
from pathlib import Path
from rf_repro.launch.local import _submit
print(_submit(lambda: [__import__(name).__file__ for name in {names}], Path("logs").absolute(), 1).result())
"""


@pytest.mark.parametrize("typed", ["at the checkout's root", "elsewhere"])
def test_jobs_run_the_launchers_code_without_an_install(tmp_path: Path, typed: str) -> None:
    checkout = copy_of_ours(tmp_path / "checkout")
    at_root = typed.startswith("at")
    folder = checkout if at_root else a_folder_full_of_names(tmp_path / "here")
    python = (sys.executable, "-c") if at_root else (sys.executable, "-P", "-c")
    variables = {} if at_root else {"PYTHONPATH": python_path(checkout)}
    done = run(*python, WHERE.format(names=PACKAGES), cwd=folder, **variables)
    assert done.stdout == f"{[str(checkout / name / '__init__.py') for name in PACKAGES]}\n", done.stderr


def test_jobs_get_no_entry_that_means_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("", ":", ":/a:", "/a"):
        monkeypatch.setenv("PYTHONPATH", given)
        assert job_environment() == {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *(["/a"] if "a" in given else [])]),
        }


def overwritten(site: Path, before: Path) -> tuple[str, ...]:
    (site / "slurm" / "__init__.py").write_text(EVIL)
    distribution(site, "slurm", "0.5.1", "slurm/__init__.py", "slurm/rate.py")
    return f"slurm: {site}/slurm/__init__.py (of the distribution slurm 0.5.1) was put", "pip uninstall slurm, then", "reinstall"


def overwritten_by_nobody(site: Path, before: Path) -> tuple[str, ...]:
    (site / "evaluators" / "__init__.py").write_text("")
    return f"evaluators: {site}/evaluators/__init__.py was put in the place of rf_repro's own", "--force-reinstall"


def uninstalled_after_that(site: Path, before: Path) -> tuple[str, ...]:
    (site / "slurm" / "__init__.py").unlink()
    return (f"slurm: {site}/slurm/__init__.py is missing; install rf_repro again",)


def another_distribution(site: Path, before: Path) -> tuple[str, ...]:
    (before / "reports").mkdir()
    (before / "reports" / "__init__.py").write_text(EVIL)
    distribution(before, "sequana-reports", "0.4.1", "reports/__init__.py")
    return (
        f"reports: Python finds {before}/reports/__init__.py (of the distribution sequana-reports 0.4.1) before",
        "pip uninstall sequana-reports, or give rf_repro an environment of its own",
    )


def a_module_of_the_user(site: Path, before: Path) -> tuple[str, ...]:
    (before / "slurm.py").write_text(EVIL)
    return f"slurm: Python finds {before}/slurm.py before rf_repro's own package; rename it", "PYTHONPATH"


Spoil = Callable[[Path, Path], tuple[str, ...]]
SPOILED: tuple[Spoil, ...] = (
    overwritten, overwritten_by_nobody, uninstalled_after_that, another_distribution, a_module_of_the_user,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_foreign_package_of_our_name_is_one_line_at_the_start(tmp_path: Path, spoil: Spoil) -> None:
    site, before = copy_of_ours(tmp_path / "site-packages"), tmp_path / "before"
    distribution(site, "rf_repro", "0.1.0", *(f"{name}/__init__.py" for name in PACKAGES))
    before.mkdir()
    (before / "evaluators").mkdir()  # a folder without __init__.py, which an installed package comes before
    environment = {"PYTHONPATH": python_path(before, site)}
    done = run(*CLI, "--version", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    expected = spoil(site, before)
    done = run(*CLI, "plan", "--scale", "smoke", cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rf-repro: error: {expected[0]}")
    assert all(text in done.stderr for text in expected)
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "site-packages"]


# Standard streams


def shell(text: str, cwd: Path, **variables: str | None) -> tuple[int, str]:
    """Exit status of the first command of a line of bash, and what all said on stderr. `rf-repro` in it is ours."""
    if "/dev/full" in text and not Path("/dev/full").exists():
        pytest.skip("macOS has no /dev/full")
    line = text.replace("rf-repro", shlex.join(CLI))
    done = run("bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", cwd=cwd, **variables)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", [None, "1"])
@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("rf-repro config smoke >&-", (0, "")),
        ("rf-repro config smoke 2>&-", (0, "")),
        ("rf-repro config smoke <&-", (0, "")),
        ("rf-repro config smoke <&- >&- 2>&-", (0, "")),
        ("rf-repro plan --scale huge <&- >&- 2>&-", (2, "")),
        ("rf-repro plan --scale huge 2>&1 | true", (2, "")),
        ("rf-repro plan --scale huge 2> /dev/full", (2, "")),
        ("rf-repro config tiny | true", (0, "")),
        ("rf-repro --help | true", (0, "")),
        ("rf-repro config tiny > /dev/full", (2, FULL)),
        ("rf-repro config smoke > /dev/full", (2, FULL)),  # fits the buffer: it shows at the end
        ("rf-repro plan --scale huge > /dev/full", (2, HUGE)),
    ],
)
def test_the_exit_status_is_that_of_the_work(tmp_path: Path, line: str, outcome: tuple[int, str], unbuffered: str | None) -> None:
    assert shell(line, tmp_path, PYTHONUNBUFFERED=unbuffered) == outcome


def test_help_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    assert shell("rf-repro --help > /dev/full", tmp_path, PYTHONUNBUFFERED=None) == (2, FULL)


def test_a_terminal_that_went_away_is_no_error(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*CLI, "config", "tiny"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(timeout=SECONDS) == 0


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom rf_repro.core.streams import keep_streams\nkeep_streams()\n"
        "number = os.open('file', os.O_CREAT | os.O_WRONLY)\nassert number > 2, number\n"
        "os.system('echo from a child; echo from a child >&2')\nprint('here')\nprint('here', file=sys.stderr)\nsys.stdin.read()\n"
    )
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = run("bash", "-c", f"{shlex.join([sys.executable, '-c', code])} {closed}", cwd=tmp_path)
        assert done.returncode == 0, (closed, done.stderr)
        assert "error" not in done.stderr  # as the child would say of a stream that it did not inherit
        assert (tmp_path / "file").read_text() == ""
        assert ("from a child\nhere\n" in done.stdout) == (">&-" not in closed.split())


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>&1 | true", "2> /dev/full > out"])
def test_nobody_has_to_listen_to_a_run(smoke: Path, tmp_path: Path, streams: str) -> None:
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    [path] = (tmp_path / "runs/smoke/pixel").iterdir()
    record = path / "run.json"
    record.write_text(record.read_text().replace('"status": "done"', '"status": "planned"'))  # to be scored again
    shutil.rmtree(path / "evals")
    status, errors = shell(f"rf-repro {shlex.join(TRAIN)} {streams}", tmp_path)
    assert (status, errors) == (0, "")
    assert RunDir(path).record().status == "done"
    assert RunDir(path).eval_result("geneval") is not None


# Temporary folders


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_gone_after_the_next_start(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [*CLI, *TRAIN, "--set", "evals.images_per_task=20"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/*/*/.scratch-*/*/samples/*.png")), process)
        os.killpg(process.pid, signal.SIGKILL)  # launcher, controller and job at once
    [run_path] = tmp_path.glob("runs/smoke/stage-pretrain/*")
    assert list(run_path.glob(".scratch-*"))
    (run_path / ".run.json.abcd1234.tmp").write_text("{")  # as if it had been killed at another moment
    done = run(*command, cwd=tmp_path, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert lock_holder(run_path) is None
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".") or path.suffix in (".tmp", ".pkl")]
    assert {path.name for path in left} == {".lock"}
    assert all(path.name.startswith("torchinductor_") for path in temporary.iterdir())  # torch's own, empty
    assert [attempt.error for attempt in only_run(tmp_path, "stage-pretrain").record().attempts] == [None, None]


# A HOME that cannot be written

FONTS_CONF = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><cachedir>{nowhere}</cachedir></fontconfig>
"""


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A folder that nobody can make, root neither."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "home"


@pytest.mark.slow
@pytest.mark.parametrize("names", [("HOME",), ("HOME", "MPLCONFIGDIR")], ids="+".join)
def test_the_report_is_built_in_silence(smoke: Path, tmp_path: Path, nowhere: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "fonts.conf").write_text(FONTS_CONF.format(nowhere=nowhere))  # fontconfig, where it is installed, complains too
    variables = {"FONTCONFIG_FILE": str(tmp_path / "fonts.conf"), **dict.fromkeys(names, str(nowhere))}
    done = run(*CLI, "report", "--scale", "smoke", "--runs", str(smoke / "runs"), cwd=tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
