"""The sdist is what git has, the wheel is what the commands need, and hints fit where they are read.

Nothing is fetched: the wheel is installed beside the packages that these tests run with.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rf_repro.core.install import extra_hint
from rf_repro.core.provenance import is_tracked
from slurm.snapshot import PACKAGES, make_snapshot

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
DATA = re.compile(r"rf_repro/evaluations/[^/]+\.yaml|reports/page/[^/]+|slurm/profiles/[^/]+\.yaml|[^/]+/py\.typed")
MADE = ("dev", "hub", "geneval", "mmdet")  # extras that `make install` installs
HINT = "from rf_repro.core.install import extra_hint; print(extra_hint('hub'))"


def run(command: Sequence[str | Path], cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command as a user would start it, without the folders where these tests' Python finds packages."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=1800)


def succeed(command: Sequence[str | Path], cwd: Path, **variables: str) -> str:
    done = run(command, cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the working tree that git has, or will have with the next `git add`."""
    if not is_tracked(ROOT):
        pytest.skip("no git checkout: nothing to compare with")
    said = succeed(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    return sorted({name for name in said.split("\0") if name and (ROOT / name).exists()})


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the tree, its sdist unpacked, and the wheel that was built from that."""
    folder = tmp_path_factory.mktemp("built")
    for name in tracked:
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    build = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"
    succeed([sys.executable, "-c", build, "build_sdist", folder], folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (folder / archive.name.removesuffix(".tar.gz")).rename(folder / "sdist")
    succeed([sys.executable, "-c", build, "build_wheel", folder], folder / "sdist")
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """bin of an environment with the wheel, and with all that these tests' environment has but a checkout's link to this code."""
    folder = built / "venv"
    venv.create(folder, symlinks=True)
    (wheel,) = built.glob("*.whl")
    succeed(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel], built
    )
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    # Python reads files of links, as an editable installation makes, in the environment's own folder alone.
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_the_sdist_is_what_git_has(built: Path, tracked: list[str]) -> None:
    made = ("PKG-INFO", "setup.cfg")
    names = sorted(path.relative_to(built / "sdist").as_posix() for path in (built / "sdist").rglob("*") if path.is_file())
    ours = [name for name in names if name not in made and not name.startswith(("rf_repro.egg-info/", "build/"))]
    assert ours == tracked
    assert all((built / "sdist" / name).read_bytes() == (built / "tree" / name).read_bytes() for name in ours)


def test_the_wheel_is_the_packages_with_pages_and_profiles(built: Path, tracked: list[str]) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = sorted(name for name in file.namelist() if ".dist-info/" not in name)
    assert names == [
        name for name in tracked if (name.split("/")[0] in PACKAGES and name.endswith(".py")) or DATA.fullmatch(name)
    ]
    assert {name.split("/")[0] for name in names} == set(PACKAGES)
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(names)  # else a user's type checker ignores our types


def test_its_own_tests_run_from_the_sdist(built: Path) -> None:
    """Three files of tests that import helpers, read documents, and start processes there; without git's folder."""
    few = ["tests/test_paper_map.py", "tests/core/test_run_lock.py", "tests/config/test_scales.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *few]
    succeed(command, built / "sdist", PYTHONPATH=str(built / "sdist"))


def test_the_wheel_serves_and_no_checkout_does(installed: Path, elsewhere: Path) -> None:
    code = f"import importlib\nfor name in {PACKAGES}: print(importlib.import_module(name).__file__)"
    places = succeed([installed / "python", "-P", "-c", code], elsewhere).split()
    assert len(places) == len(PACKAGES)
    assert all(Path(place).is_relative_to(installed.parent) for place in places)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--version", r"rf-repro \d+\.\d+\.\d+"),
        ("plan", r"pixel_rf"),
        ("sweep profile gpu-cluster", r"partition"),
        ("config tiny", r"codebook_size"),
        ("evaluate geneval --help", r"usage: rf-repro evaluate geneval"),
        ("estimate --scale base --gpus 8 --gpu h100 --tables table3a", r"GPU"),
    ],
)
def test_commands_without_a_checkout(installed: Path, elsewhere: Path, arguments: str, said: str) -> None:
    assert re.search(said, succeed([installed / "rf-repro", *arguments.split()], elsewhere))


def test_a_report_without_a_checkout(installed: Path, elsewhere: Path, built: Path) -> None:
    """Of two variants of the sdist's records."""
    for variant in ("pixel", "pixel_rf"):
        shutil.copytree(built / "sdist" / "reports" / "results" / "tiny" / variant, elsewhere / "runs" / variant)
    succeed([installed / "rf-repro", "report", "--runs", "runs", "--out", "out"], elsewhere)
    assert "| Pixel+RF |" in (elsewhere / "out" / "report.md").read_text(encoding="utf-8")
    assert "<style>" in (elsewhere / "out" / "report.html").read_text(encoding="utf-8")


def test_reproduce_without_a_checkout(installed: Path, elsewhere: Path) -> None:
    said = succeed([installed / "rf-repro", "reproduce", "--scale", "smoke"], elsewhere)
    assert said.endswith("report: report/report.html\n")
    assert len(list((elsewhere / "runs" / "smoke").glob("*/*/run.json"))) >= 4
    assert (elsewhere / "report" / "report.html").exists()


def test_a_hint_names_the_checkout_where_it_works(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert extra_hint("hub") == "pip install -e '.[hub]'"
    monkeypatch.chdir(elsewhere)  # with the code still in a checkout: `.` would be this folder
    assert extra_hint("hub") == "pip install 'rf_repro[hub]'"
    (elsewhere / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert extra_hint("hub") == "pip install 'rf_repro[hub]'"


def test_a_hint_names_the_package_where_it_was_installed(installed: Path, elsewhere: Path, built: Path) -> None:
    hint = succeed([installed / "python", "-c", HINT], elsewhere).strip()
    assert hint == succeed([installed / "python", "-P", "-c", HINT], built / "tree").strip() == "pip install 'rf_repro[hub]'"
    # It does what it says: pip finds what is installed, and asks no index for it.
    words = shlex.split(hint)
    pip = [sys.executable, "-m", "pip", "--python", installed / "python"]
    said = succeed([*pip, *words[1:], "--dry-run", "--no-deps", "--no-index"], elsewhere)
    assert f"Requirement already satisfied: {words[-1]} in {installed.parent}" in said


def test_a_snapshot_gives_the_hint_of_what_it_was_made_from(
    installed: Path, built: Path, elsewhere: Path, tmp_path: Path
) -> None:
    of_tree = make_snapshot(tmp_path / "code", built / "tree").path
    python, variables = [sys.executable, "-P", "-c", HINT], {"PYTHONPATH": str(of_tree)}
    assert succeed(python, built / "tree", **variables) == "pip install -e '.[hub]'\n"
    assert succeed(python, elsewhere, **variables) == "pip install 'rf_repro[hub]'\n"
    code = (
        "import sys; from pathlib import Path; from slurm.snapshot import make_snapshot; print(make_snapshot(Path('code')).path)"
    )
    of_wheel = succeed([installed / "python", "-c", code], elsewhere).strip()
    assert succeed([installed / "python", "-P", "-c", HINT], elsewhere, PYTHONPATH=of_wheel) == "pip install 'rf_repro[hub]'\n"


def test_the_lock_is_within_the_ranges_and_names_all_of_them() -> None:
    """Of the core and of what `make install` adds. Versions without a build's suffix: they are taken from any index."""
    pins = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    locked = {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}
    assert len(locked) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(text for name in MADE for text in project["optional-dependencies"][name])]
    for requirement in map(Requirement, asked):
        if requirement.name != "rf_repro":
            assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_every_hint_names_an_extra_that_there_is() -> None:
    code = [path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = {name for text in code for name in re.findall(r"extra_hint\(['\"](\w+)['\"]\)", text)}
    assert named >= {"hub", "geneval", "vlm", "mmdet", "mplug"}
    assert named <= set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
