"""Progress on the terminal: a bar for each run at work, or a plain line every few seconds where output is a file."""

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rf_repro.core.shown import one_line, say
from rf_repro.launch.progress import Watch, clock

PLAIN_SECONDS = 15.0


class PlainDisplay:
    """Lines only: what started and ended at once, how far the rest is every 15 seconds."""

    def __init__(self, file: TextIO):
        self.file = file
        self.last = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.flush()

    def note(self, text: str) -> None:
        say(text, file=self.file)

    def update(self, watches: list[Watch], finished: int, total: int, remaining: float | None = None) -> None:
        if time.monotonic() - self.last < PLAIN_SECONDS:
            return
        self.last = time.monotonic()
        for watch in watches:
            self.note(f"{watch.job.name}: {_line(watch)}")
        self.note(f"all runs: {finished}/{total}, {clock(remaining)} left")


class BarDisplay:
    """A rich bar for every run at work and one for the whole plan. Redrawn by `update` alone: no thread of its own."""

    def __init__(self, console: Console):
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=console, auto_refresh=False,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.whole: TaskID | None = None

    def __enter__(self) -> "BarDisplay":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def note(self, text: str) -> None:
        self.bars.console.print(one_line(text), markup=False, highlight=False)

    def update(self, watches: list[Watch], finished: int, total: int, remaining: float | None = None) -> None:
        for name in set(self.tasks) - {watch.job.name for watch in watches}:
            self.bars.remove_task(self.tasks.pop(name))
        for watch in watches:
            name = watch.job.name
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(one_line(name), text="")
            self.bars.update(
                self.tasks[name], completed=watch.progress.done, total=max(1, watch.progress.total), text=_line(watch)
            )
        if self.whole is None:
            self.whole = self.bars.add_task("all runs", text="")
        self.bars.update(self.whole, completed=finished, total=total, text=f"{finished}/{total}, {clock(remaining)} left")
        self.bars.refresh()


Display = PlainDisplay | BarDisplay


def make_display(file: TextIO | None = None) -> Display:
    """Bars on a terminal, plain lines elsewhere; on stderr, so that stdout holds results only."""
    file = file or sys.stderr
    console = Console(file=file)
    return BarDisplay(console) if console.is_terminal else PlainDisplay(file)


def _line(watch: Watch) -> str:
    progress = watch.progress
    loss = f", loss {progress.loss:.4g}" if progress.loss is not None else ""
    return (
        f"{progress.phase} {progress.done}/{progress.total}{loss}, {clock(watch.elapsed)} elapsed, {clock(watch.remaining)} left"
    )
