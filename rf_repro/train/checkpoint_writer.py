"""Writes checkpoints (rf_repro.train.checkpoint says what they are): a folder appears whole under its name, or not at all.

Every rank writes what it holds, at the same time. Where training is sharded, a thread of each does so while training goes on.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import is_sharded, is_writer, local, own_region
from rf_repro.core.errors import UserError
from rf_repro.core.files import flush, write_json
from rf_repro.core.hashing import content_hash, file_sha256
from rf_repro.train.checkpoint import FORMAT, KINDS, Tensors, list_checkpoints

T = TypeVar("T")
# Of a checkpoint, or a part of one: `.tmpXXXXXX` is what safetensors writes before it renames.
FILE = re.compile(rf"({'|'.join(KINDS)})(-\d+)?\.safetensors.*|\.?state\.json.*|\.tmp\w{{6}}")


@dataclass(frozen=True)
class _Held:
    """What this rank writes of one tensor, on the CPU, and where in the whole it lies."""

    tensor: Tensor
    offsets: list[int]
    whole: list[int]


class CheckpointWriter:
    """Writes checkpoints of a training, one after the other. Every rank makes the same calls."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self._apart: Ranks | None = None
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save(self, folder: Path, step: int, tensors: Tensors, extra: dict[str, Any]) -> None:
        """Writes `folder/step-XXXXXX` and removes all older checkpoints but one. Where a tensor is sharded, copies them to the
        CPU and returns, and a thread writes; else every rank returns when the checkpoint is there.

        Args:
            tensors: sharded ones are written in parts, of several copies one; others by the first rank.
            extra: JSON-ready values, the same on every rank.

        Raises:
            UserError: on every rank, this checkpoint or the one before it could not be written; older ones are kept.
        """
        self.wait()
        in_background = is_sharded(tensor for named in tensors.values() for tensor in named.values())
        held = {kind: _held(named, self.ranks, in_background) for kind, named in tensors.items()}
        state = {"format": FORMAT, "step": step, "extra": extra}
        if not in_background:
            _write(self.ranks, folder, held, state)
            return
        self._apart = self._apart or self.ranks.apart()
        self._writing = self._thread.submit(_write, self._apart, folder, held, state)

    def wait(self) -> None:
        """Returns when no checkpoint is being written any more. Raises UserError as `save`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _held(named: Mapping[str, Tensor], ranks: Ranks, copy: bool) -> dict[str, _Held]:
    """What this rank writes of tensors, by name; its very memory where that is on the CPU, unless `copy`."""
    held = {}
    for number, (name, tensor) in enumerate(named.items()):
        offsets, shape = own_region(tensor)
        if is_writer(tensor, number, ranks) and (0 not in shape or 0 in tensor.shape):
            held[name] = _Held(local(tensor).detach().to("cpu", copy=copy).contiguous(), offsets, list(tensor.shape))
    return held


def _write(ranks: Ranks, folder: Path, held: dict[str, dict[str, _Held]], state: dict[str, Any]) -> None:
    """To the disk itself, so that the crash of a node damages nothing, and before older checkpoints are removed."""
    final, temporary = folder / f"step-{state['step']:06d}", folder / f".writing-{state['step']:06d}"

    def begin() -> None:
        if ranks.is_first:
            _remove(temporary)  # what a killed attempt left must not be taken for ours
            temporary.mkdir(parents=True)

    def write() -> dict[str, dict[str, Any]]:
        paths = {kind: temporary / f"{kind}-{ranks.rank:05d}.safetensors" for kind, own in held.items() if own}
        for kind, path in paths.items():
            _write_file(path, held[kind])
        return {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in paths.values()}

    def finish() -> None:
        if ranks.is_first:
            files = {name: about for written in found for name, about in sorted(written.items())}
            whole = {**state, "files": files}
            write_json(temporary / "state.json", {**whole, "digest": content_hash(whole)})
            if final.exists():
                _hide(final)
            flush(temporary)
            temporary.rename(final)
            flush(folder)
            _keep_last_two(folder)

    try:
        _together(ranks, final, begin)
        found = _together(ranks, final, write)
        _together(ranks, final, finish)
    finally:
        if ranks.is_first:
            _remove(temporary)  # best effort: the error is what the user must see


def _together(ranks: Ranks, final: Path, work: Callable[[], T]) -> list[T]:
    """What `work` returns on each rank. Raises UserError on all of them where it fails on one."""
    result, cause = None, None
    try:
        result = work()
    except Exception as error:  # whatever it is: a full disk, as Python and safetensors report it; the others wait to hear of it
        cause = error
    said = ranks.gather_objects([result, None if cause is None else str(cause).partition("; ")[0]])
    for rank, (_, failure) in enumerate(said):
        if failure is not None:
            who = f"rank {rank} " if ranks.size > 1 else ""
            raise UserError(
                f"{final}: {who}cannot write checkpoint ({failure}); free space or choose another --runs folder"
            ) from cause
    return [result for result, _ in said]


def _write_file(path: Path, held: dict[str, _Held]) -> None:
    """Tensors of a kind, and in the header where those lie that are parts."""
    parts = {
        name: {"offsets": one.offsets, "shape": one.whole} for name, one in held.items() if list(one.tensor.shape) != one.whole
    }
    save_file({name: one.tensor for name, one in held.items()}, path, {"format": "pt", "parts": json.dumps(parts)})
    flush(path)


def _keep_last_two(folder: Path) -> None:
    """Removes older checkpoints than the last two, and what a killed process left. What holds anything else stays."""
    for older in list_checkpoints(folder)[:-2]:  # one to fall back to, should the last be damaged
        if _is_ours(older):
            _hide(older)
    for leftover in folder.glob(".writing-*"):
        _remove(leftover)


def _hide(checkpoint: Path) -> None:
    """Makes a leftover of it: a process that is killed as it removes files leaves no half of a checkpoint."""
    hidden = checkpoint.with_name(f".writing-no-more-{checkpoint.name}")
    _remove(hidden)  # of a process that was killed then
    checkpoint.rename(hidden)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of files that a checkpoint is made of, and of nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(FILE.fullmatch(item.name) and item.is_file() and not item.is_symlink() for item in folder.iterdir())


def _remove(folder: Path) -> None:
    if _is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)
