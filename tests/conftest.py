"""Settings for every test: the same wherever the tests are started, by whom, and on however many cores."""

import os
import runpy
import signal
from pathlib import Path

import pytest

from rf_repro.core.capacity import usable_bytes, usable_cores

# What a user, a scheduler or a git hook sets, and what would change what a test sees, in its subprocesses too.
STRANGE = (
    "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_", "JUPYTER_", "PYTHON_COLORS", "MPLBACKEND",
    "PYTHONSAFEPATH", "PYTHONWARNINGS", "PYTHONIOENCODING",
    "OMP_", "GOMP_", "KMP_", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "TORCH_", "PYTORCH_",
    "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "XDG_CACHE_HOME", "OPENAI_", "RF_REPRO_", "RF_RENDEZVOUS",
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "SLURM_", "SLURMD_", "SBATCH_", "SRUN_",
    "GIT_",
)  # fmt: skip
KEPT = ("RF_REPRO_NEEDS_SLURM", "SLURM_CONF")
for name in [name for name in os.environ if name.startswith(STRANGE) and name not in KEPT]:
    del os.environ[name]

# One thread, so that tests beside each other don't fight over cores.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
for name in ("no_proxy", "NO_PROXY"):  # a user's proxy is not asked for servers of tests
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost,127.0.0.1")))

SUPPORT = Path(__file__).parent / "support"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))
runpy.run_path(str(SUPPORT / "sitecustomize.py"))

MOST_WORKERS = 16
WORKER_BYTES = 2 * 2**30  # torch, transformers, and the processes that a test starts


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """A script's `make test &` begins with SIGINT ignored, `nohup make test` with SIGHUP: Python then raises no
    KeyboardInterrupt, and what tests start inherits it. Here SIGINT interrupts again. The others still do nothing, but by a
    handler, with which no program starts."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        if signal.getsignal(kind) is signal.SIG_IGN:
            signal.signal(kind, lambda number, frame: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In workers, modules with slow tests come first: one left for the end would run alone."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """`-n auto`: a worker for each core that this process may use, if there is memory for them; 0 (no workers) for one core."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # pytest-xdist reads it
    workers = min(usable_cores(), usable_bytes() // WORKER_BYTES, MOST_WORKERS)
    return workers if workers > 1 else 0
