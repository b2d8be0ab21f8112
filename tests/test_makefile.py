"""Which Python and which build of torch `make` takes, on machines of all kinds, and that a .venv begun can be ended.

What is installed here are wheels of a few lines, from a folder: no index is asked.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TOOLS = ("cat", "env", "grep", "rm", "sed", "sh", "tail", "touch", "uname")
HAS_DRIVER = Path("/proc/driver/nvidia/version").exists() or Path("/dev/dxg").exists()
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "little"
version = "1"
dependencies = [
    "torch>=2.6,<3",
]
[project.optional-dependencies]
geneval = [
    "torchvision>=0.21,<1",
]
dev = ["little[geneval]"]
"""
LOCK = "# As in the real one.\ntorch==2.13.0\ntorchvision==0.28.0\n"
CONSTRAINED = "--constraint requirements.lock -e"
BACKEND = """import zipfile, pathlib
METADATA = '''Metadata-Version: 2.1
Name: little
Version: 1
Requires-Dist: torch>=2.6,<3
Provides-Extra: dev
Requires-Dist: torchvision>=0.21,<1; extra == "dev"
'''
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(pathlib.Path(folder) / "little-1-py3-none-any.whl", "w") as file:
        file.writestr("little-1.dist-info/METADATA", METADATA)
        file.writestr("little-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("little-1.dist-info/RECORD", "")
    return "little-1-py3-none-any.whl"
"""


class Machine:
    """A machine whose PATH holds a few tools and what a test puts there, and a checkout with the Makefile on it."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.checkout, self.wheels, self.cpu_wheels = (folder / name for name in ("bin", "checkout", "own", "cpu"))
        for path in (self.bin, self.checkout, self.wheels, self.cpu_wheels):
            path.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        shutil.copy(ROOT / "Makefile", self.checkout)
        self.python("python3")

    def program(self, name: str, code: str = "") -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{code}\n")
        (self.bin / name).chmod(0o755)

    def python(self, name: str, refuses: str = "nothing") -> None:
        """These tests' Python under a name; it fails on code with some words in it."""
        self.program(name, f'case "$*" in *"{refuses}"*) exit 1;; esac\nexec "{sys.executable}" "$@"')

    def make(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs make with the wheels as all that pip knows, and those for CPUs in the place of PyTorch's index of them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "NVIDIA_", "INDEX"))}
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        command = [shutil.which("make") or "make", *arguments]
        environment = kept | pip | {"PATH": str(self.bin)} | variables
        return subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True, timeout=600)

    def install(self, *arguments: str) -> str:
        done = self.make("install", f"CPU_INDEX=--find-links {self.cpu_wheels}", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pip_calls(self, *arguments: str, **variables: str) -> list[str]:
        """What `make -n install` would have pip install, and from where beside its own indexes."""
        done = self.make("-n", "install", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return [line.split("--quiet", 1)[1] for line in done.stdout.splitlines() if "pip install --quiet " in line][1:]

    def versions(self) -> dict[str, str]:
        code = "from importlib.metadata import distributions as d; print(*(x.name + '=' + x.version for x in d()))"
        command = [self.checkout / ".venv" / "bin" / "python", "-I", "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(word.split("=") for word in said.split())


def write_wheel(folder: Path, name: str, version: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, made.checkout)
    return made


@pytest.fixture
def little(tmp_path: Path) -> Machine:
    """A machine with a project of two dependencies, of which there is a build for CPUs and another."""
    made = Machine(tmp_path)
    (made.checkout / "pyproject.toml").write_text(PYPROJECT)
    (made.checkout / "requirements.lock").write_text(LOCK)
    (made.checkout / "backend.py").write_text(BACKEND)
    for name, version in (("torch", "2.13.0"), ("torchvision", "0.28.0")):
        write_wheel(made.wheels, name, version)
        write_wheel(made.cpu_wheels, name, f"{version}+cpu")
    return made


GUESS = "none" if HAS_DRIVER else "cpu"


@pytest.mark.parametrize(
    ("programs", "arguments", "variables", "index"),
    [
        ((), (), {}, GUESS),
        (("nvidia-smi",), (), {}, "none"),
        (("squeue",), (), {}, "none"),  # a login node
        (("sinfo",), (), {}, "none"),
        (("qsub",), (), {}, "none"),
        ((), (), {"NVIDIA_VISIBLE_DEVICES": "all"}, "none"),  # an image for NVIDIA's containers, while it is built
        ((), ("INDEX=none",), {}, "none"),
        ((), ("INDEX=",), {}, "none"),
        ((), (), {"INDEX": "none"}, "none"),
        (("nvidia-smi",), ("INDEX=cpu",), {}, "cpu"),
        (("squeue",), ("INDEX=cpu",), {}, "cpu"),
        (("darwin",), (), {}, "none"),  # one build there
        (("darwin",), ("INDEX=cpu",), {}, "none"),
    ],
)
def test_the_build_of_torch(
    machine: Machine, programs: tuple[str, ...], arguments: tuple[str, ...], variables: dict[str, str], index: str
) -> None:
    for name in programs:
        machine.program(*(("uname", "echo Darwin") if name == "darwin" else (name,)))
    torch, *others = machine.pip_calls(*arguments, **variables)
    assert ("torch==2.13.0+cpu" in torch) == (CPU_INDEX in torch) == (index == "cpu")
    assert "torch==2.13.0" in torch
    assert " --no-deps " in torch
    assert [call.strip() for call in others if "torch" not in call] == [f"{CONSTRAINED} .", f'{CONSTRAINED} ".[dev]"']


def test_an_index_goes_to_every_call_of_pip(machine: Machine) -> None:
    calls = machine.pip_calls("INDEX=https://pip.example/simple")
    option = '--extra-index-url "https://pip.example/simple"'
    assert [call.split(option)[1].strip() for call in calls if CPU_INDEX not in call] == [
        '--no-deps "torch==2.13.0"', f"{CONSTRAINED} .", f'{CONSTRAINED} ".[dev]"'
    ]  # fmt: skip
    done = machine.make("-n", "install", "INDEX=gpu")
    assert done.returncode == 2
    assert "INDEX=gpu: must be cpu, none or the URL of a package index" in done.stderr


def test_peers_have_an_environment_of_their_own(machine: Machine) -> None:
    (machine.checkout / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "requirements.txt", machine.checkout / "benchmarks")
    done = machine.make("-n", "bench", "INDEX=none", "BAGEL=clone")
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith(".venv-bench/bin/python -m pip")]
    assert [call.split("--quiet", 1)[1].strip() for call in calls] == [
        '--no-deps "torch==2.13.0"', f"{CONSTRAINED} .", f'{CONSTRAINED} ".[hub]" --requirement benchmarks/requirements.txt'
    ]  # fmt: skip
    assert done.stdout.endswith('.venv-bench/bin/python -m benchmarks.peers --bagel "clone" --out bench/peers.json\n')
    assert ".venv/" not in done.stdout
    assert "make INDEX=cpu bench" in done.stdout or sys.platform != "linux"


@pytest.mark.parametrize("old", [("python3",), ("python3", "python3.13")])
def test_an_old_python_gives_way_to_a_newer_one(machine: Machine, old: tuple[str, ...]) -> None:
    for name in old:
        machine.python(name, refuses="version_info")
    machine.python("python3.12")
    assert "python3.12 -m venv" in machine.make("-n", "install").stdout
    machine.python("python3.11")
    assert "python3.12 -m venv" in machine.make("-n", "install").stdout
    assert "python3.11 -m venv" in machine.make("-n", "install", "PYTHON=python3.11").stdout


@pytest.mark.parametrize(
    ("refuses", "line"),
    [
        ("version_info <", "error: python3 is not Python 3.11 to 3.14; name one that is: make PYTHON=python3.12 reproduce"),
        ("import ensurepip", f"apt install python3.{sys.version_info[1]}-venv; or name another: make PYTHON=python3.12"),
    ],
)
def test_a_python_that_will_not_do_is_one_line(machine: Machine, refuses: str, line: str) -> None:
    machine.python("python3", refuses)
    done = machine.make("reproduce")
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert line in first
    assert last.startswith("make: ***")
    assert not (machine.checkout / ".venv").exists()


@pytest.mark.slow
def test_the_build_for_cpus_is_whole_and_gives_way_to_the_other(little: Machine) -> None:
    said = little.install("INDEX=cpu")
    assert "torch==2.13.0 for CPUs: 0.4 GB to download" in said
    assert "make INDEX=none install" in said
    assert little.versions().items() >= {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu", "little": "1"}.items()
    assert "Nothing to be done" in little.install()
    (little.checkout / "pyproject.toml").touch()
    assert "to download" not in little.install()  # what is there stays, and nothing is announced
    little.install("INDEX=none")
    assert little.versions().items() >= {"torch": "2.13.0", "torchvision": "0.28.0"}.items()
    (little.checkout / "pyproject.toml").touch()
    little.install()
    assert little.versions()["torch"] == "2.13.0"


@pytest.mark.slow
def test_the_locks_versions_are_taken_and_a_lock_is_made_anew(little: Machine) -> None:
    for folder, suffix in ((little.wheels, ""), (little.cpu_wheels, "+cpu")):
        write_wheel(folder, "torch", f"2.14.0{suffix}")  # newer ones, which the ranges allow
        write_wheel(folder, "torchvision", f"0.29.0{suffix}")
    little.install("INDEX=cpu")
    assert little.versions().items() >= {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}.items()
    (little.checkout / "requirements.lock").write_text(LOCK.replace("2.13", "2.14").replace("0.28", "0.29"))
    little.install()
    assert little.versions().items() >= {"torch": "2.14.0+cpu", "torchvision": "0.29.0+cpu"}.items()
    little.program("mv", f'exec {shutil.which("mv")} "$@"')
    done = little.make("lock")
    assert done.returncode == 0, done.stderr
    comment, *pins = (little.checkout / "requirements.lock").read_text().splitlines()
    assert comment == "# As in the real one."
    assert [pin for pin in pins if pin.startswith("torch")] == ["torch==2.14.0", "torchvision==0.29.0"]
    assert not [pin for pin in pins if "little" in pin]


@pytest.mark.slow
@pytest.mark.skipif(HAS_DRIVER, reason="here the guess is CUDA")
def test_a_guess_that_cannot_be_had_is_said_and_one_that_was_asked_for_fails(little: Machine) -> None:
    for wheel in little.cpu_wheels.iterdir():
        wheel.unlink()
    done = little.make("install", f"CPU_INDEX=--find-links {little.cpu_wheels}", "INDEX=cpu")
    assert done.returncode == 2
    assert "ERROR: No matching distribution found for torch==2.13.0+cpu" in done.stderr
    said = little.install()
    assert "not to be had here (ERROR: No matching distribution found for torch==2.13.0+cpu); so, as pip takes it" in said
    assert little.versions().items() >= {"torch": "2.13.0", "torchvision": "0.28.0"}.items()
    assert (little.checkout / ".venv" / ".index").read_text() == "none\n"


def without_pip(little: Machine) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", little.checkout / ".venv"], check=True)


def without_python(little: Machine) -> None:
    subprocess.run([sys.executable, "-m", "venv", little.checkout / ".venv"], check=True)
    for name in ("python", "python3"):
        (little.checkout / ".venv" / "bin" / name).unlink(missing_ok=True)
        (little.checkout / ".venv" / "bin" / name).symlink_to("/absent/python3")


def with_half_of_pip(little: Machine) -> None:
    subprocess.run([sys.executable, "-m", "venv", little.checkout / ".venv"], check=True)
    (site,) = (little.checkout / ".venv").glob("lib/*/site-packages")
    (record,) = site.glob("pip-*.dist-info")
    shutil.rmtree(record)  # it is written last
    shutil.rmtree(site / "pip" / "_internal" / "operations")


def without_anything(little: Machine) -> None:
    (little.checkout / ".venv" / "bin").mkdir(parents=True)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [without_pip, without_python, with_half_of_pip, without_anything])
def test_a_venv_that_was_left_half_made_is_ended(little: Machine, begin: Callable[[Machine], None]) -> None:
    begin(little)
    done = little.make(".venv/.installed", "INDEX=none")
    assert done.returncode == 0, done.stderr
    assert little.versions().items() >= {"torch": "2.13.0", "little": "1"}.items()


@pytest.mark.slow
def test_a_venv_of_another_python_is_left_alone(little: Machine) -> None:
    subprocess.run([sys.executable, "-m", "venv", little.checkout / ".venv"], check=True)
    python = little.checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\ncase "$*" in *"version_info <"*) exit 1;; esac\nexec "{python}3" "$@"\n')
    python.chmod(0o755)
    done = little.make("install")
    assert done.returncode == 2
    assert "error: .venv is not of Python 3.11 to 3.14; remove it: rm -r .venv" in done.stderr
