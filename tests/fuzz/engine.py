"""Runs targets on damaged copies of their folders: each ends with a result or with one clear line, soon, and in little memory.

Mutants run in a child process, in batches: one that hangs, dies or takes too much costs its batch no more than a new child. A
mutant follows from (seed, index) alone, so a finding can be run again.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from rf_repro.core.errors import UserError
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import Target

SECONDS = 5  # that a mutant may take
MEMORY = 1 << 30  # bytes, beside what the process has before
BATCH = 50
LONGEST = 2_000  # characters of a line of error
LINES = 8


@dataclass(frozen=True)
class Finding:
    """What a mutant led to that it must not."""

    target: str
    index: int
    damage: str
    what: str  # the last lines of the traceback, `hang`, `died of signal 11`, or an error text that is none

    @property
    def kind(self) -> str:
        """Where it comes from: findings of one kind are one fault."""
        return f"{self.target}: {self.what.splitlines()[-1][:100] if self.what else ''}"


def fuzz(targets: Sequence[Target], mutants: Sequence[int], seed: int) -> Iterator[Finding | None]:
    """For each mutant None, or a finding. Mutant `index` is of target `index % len(targets)`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        folders = {}
        for target in targets:
            folders[target.name] = Path(name) / "whole" / target.name
            folders[target.name].mkdir(parents=True)
            target.prepare(folders[target.name])
        left = list(mutants)
        while left:
            done = 0
            for found in _batch(targets, folders, left[:BATCH], seed, Path(name) / "mutant"):
                done += 1
                yield found
            left = left[done:]


def _batch(
    targets: Sequence[Target], folders: dict[str, Path], mutants: Sequence[int], seed: int, place: Path
) -> Iterator[Finding | None]:
    """Those of a child; it ends early where the child did."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_work, args=(theirs, targets, folders, mutants, seed, place))
    child.start()
    theirs.close()
    index, damage = mutants[0], "not yet"
    try:
        for index in mutants:
            target = targets[index % len(targets)]
            damage = ours.recv() if ours.poll(2 * SECONDS) else "not done in time"
            answer = ours.recv() if ours.poll(2 * SECONDS) else "hang"
            yield Finding(target.name, index, damage, answer) if answer else None
            if answer == "hang":
                break
    except EOFError:
        child.join()
        yield Finding(targets[index % len(targets)].name, index, damage, f"died with {child.exitcode}")
    finally:
        child.kill()
        child.join()
        ours.close()


def _work(
    pipe: Connection, targets: Sequence[Target], folders: dict[str, Path], mutants: Sequence[int], seed: int, place: Path
) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    for index in mutants:
        target, draw = targets[index % len(targets)], random.Random(f"{seed}:{index}")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folders[target.name], place)
        pipe.send(mutate(place, draw))
        pipe.send(_outcome(target, place))
    os._exit(0)


def _outcome(target: Target, place: Path) -> str:
    """Empty where the target ended as it must."""
    signal.alarm(SECONDS)
    try:
        target.run(place)
    except UserError as error:
        return not_a_line(str(error))
    except (Exception, KeyboardInterrupt) as error:
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return "\n".join([*lines, f"{type(error).__name__}: {error}"])
    finally:
        signal.alarm(0)
    return ""


def not_a_line(text: str) -> str:
    """What is wrong with an error text; empty where nothing is."""
    if not text.strip() or len(text) > LONGEST or text.count("\n") >= LINES:
        return f"an error text of {len(text)} characters and {text.count(chr(10)) + 1} lines"
    strange = [letter for letter in text if not (letter.isprintable() or letter == "\n")]
    return f"an error text with {strange[0]!r}" if strange else ""


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")
