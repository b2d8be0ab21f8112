"""Several processes that train together, for tests: forked from a server that has imported torch once."""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from rf_repro.compute.ranks import Ranks, joined_ranks
from tests.waiting import SECONDS

PROCESSES_START_BY = "spawn" if sys.platform == "darwin" else "fork"  # Python 3.11 to 3.13's own
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",  # torch.optim imports it late
        "rf_repro.experiment.run",
        "tests.train.test_stopping",
        "tests.train.test_sharded_checkpoint",
    ]
)


def start_processes_as_usual() -> None:
    """For a process of the server: loaders start their workers as outside tests. Else the server would be those workers' parent,
    and they would outlive an owner that is killed."""
    multiprocessing.set_start_method(PROCESSES_START_BY, force=True)


Work = Callable[..., Any]  # (ranks, *arguments) -> what torch.save takes; importable by name


class Group:
    """`size` processes at work on `work(ranks, *arguments)`, which meet through a file in `folder`."""

    def __init__(self, work: Work, size: int, folder: Path, *arguments: object, environment: dict[str, str] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.rendezvous = folder / f"rendezvous-{time.monotonic_ns()}"
        self.results = [folder / f"result-{time.monotonic_ns()}-{rank}.pt" for rank in range(size)]
        self.processes: list[BaseProcess] = []
        for rank in range(size):
            own = {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank), "RF_RENDEZVOUS": str(self.rendezvous)}
            process = CONTEXT.Process(
                target=_work, args=(work, {**own, **(environment or {})}, self.results[rank], arguments), daemon=True
            )
            process.start()
            self.processes.append(process)

    def wait(self) -> list[Any]:
        """What each rank returned, in order. A rank that failed fails the test with its traceback; none is left behind."""
        deadline = time.monotonic() + SECONDS
        try:
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
            assert all(process.exitcode == 0 for process in self.processes), self._report()
        finally:
            for process in self.processes:
                process.kill()
        return [torch.load(path, weights_only=False) for path in self.results]

    def _report(self) -> str:
        lines = [f"rank {rank}: exit status {process.exitcode}" for rank, process in enumerate(self.processes)]
        errors = [path.with_suffix(".error") for path in self.results]
        return "\n".join([*lines, *(path.read_text() for path in errors if path.exists())])


def run_ranks(work: Work, size: int, folder: Path, *arguments: object) -> list[Any]:
    """Runs `work(ranks, *arguments)` in `size` processes and returns what each returned, in rank order."""
    return Group(work, size, folder, *arguments).wait()


def _work(work: Work, environment: dict[str, str], result: Path, arguments: tuple[object, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    start_processes_as_usual()
    try:
        with joined_ranks() as ranks:
            value = work(ranks, *arguments)
    except BaseException:
        result.with_suffix(".error").write_text(traceback.format_exc())
        raise
    torch.save(value, result)


def only_one(ranks: Ranks) -> bool:
    """Whether no process group was made."""
    return ranks == Ranks.alone() and not torch.distributed.is_initialized()
