"""Checkpoints of sharded training (torch.distributed.checkpoint): every rank writes its parts, at once, while training goes on.

`step-000250/` holds, of each rank, weights-00000.safetensors, ema-00000.safetensors and optimizer-00000.safetensors, and
state.json with the step and every file's size and SHA-256. A tensor is named `kind/name`; each file's header says where in the
whole tensor its part lies, so that any number of ranks can read what any number wrote.

Files are safetensors, in DCP's Hugging Face layout, because DCP's own layout is pickled: reading its `.metadata` would run what
it holds. The folder appears under its name when the last rank has written, or never.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, empty
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as WriteFuture

from rf_repro.compute.ranks import ALONE, PATIENCE, Ranks
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.train.checkpoint import REMEDY, check_files, keep_last_two, read_state, write_state

KINDS = ("weights", "ema", "optimizer")
Tensors = Mapping[str, Mapping[str, Tensor]]  # kind -> name -> tensor, sharded or not


class ShardedSaver:
    """Writes checkpoints beside training: at most one is being written. Every rank makes the same calls."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self._target = ranks, Path()
        self._writing: Future | None = None
        # Of its own: a thread speaks through it, and must not come between the words of training.
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def save(self, folder: Path, step: int, tensors: Tensors, extra: dict[str, Any]) -> None:
        """Waits for the checkpoint before, copies `tensors` to the CPU, and returns: a thread writes `folder/step-XXXXXX`.

        Args:
            tensors: sharded ones are written in parts, of several copies one; others by one rank.
            extra: JSON-ready values, the same on every rank.

        Raises:
            UserError: the checkpoint before could not be written.
        """
        self.wait()
        temporary = folder / f".writing-{step:06d}"
        self._target = folder / f"step-{step:06d}"
        if self.ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)  # what a killed attempt left must not be taken for ours
        self.ranks.barrier()
        flat = {f"{kind}/{name}": tensor for kind, held in tensors.items() for name, tensor in held.items()}
        writer = _Writer(temporary, self._target, {"step": step, "kind": "sharded", "extra": extra})
        writing = dcp.async_save(flat, storage_writer=writer, process_group=self._group)
        assert isinstance(writing, Future)
        self._writing = writing

    def wait(self) -> None:
        """Returns when no checkpoint is being written any more.

        Raises:
            UserError: on every rank, one could not be written; older ones are kept.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except CheckpointException as error:
            rank, (cause, _) = min(error.failures.items(), key=lambda item: item[0])
            raise UserError(
                f"{self._target}: rank {rank} cannot write checkpoint ({cause}); free space or choose another --runs folder"
            ) from error


class _Writer(dcp.HuggingFaceStorageWriter):
    """One file a rank and kind, with digests; the first rank makes it a checkpoint when all have written."""

    def __init__(self, temporary: Path, target: Path, state: dict[str, Any]) -> None:
        super().__init__(str(temporary), save_distributed=True)
        self.temporary, self.target, self.state = temporary, target, state

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> WriteFuture[list[WriteResult]]:
        kinds: dict[str, list[WriteItem]] = {}
        for item in plan.items:
            kinds.setdefault(item.index.fqn.partition("/")[0], []).append(item)
        results = []
        for kind, items in kinds.items():
            path = self.temporary / f"{kind}-{plan.storage_data['shard_index'] - 1:05d}.safetensors"
            tensors = {item.index.fqn: planner.resolve_data(item).detach().cpu().contiguous() for item in items}  # type: ignore[union-attr]
            assert len(tensors) == len(items)  # parts of rows: one a rank
            places = {item.index.fqn: {"saved_offsets": list(item.index.offset or ())} for item in items}
            save_file(tensors, path, metadata={"DCP_SHARDING_INFO": json.dumps(places), "format": "pt"})
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            written = (path.name, path.stat().st_size, file_sha256(path))
            results += [WriteResult(item.index, tensors[item.index.fqn].nbytes, written) for item in items]
        future: WriteFuture[list[WriteResult]] = WriteFuture()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files = {result.storage_data[0]: result.storage_data[1:] for written in results for result in written}
        sizes = {name: size for name, (size, _) in sorted(files.items())}
        digests = {name: digest for name, (_, digest) in sorted(files.items())}
        write_state(self.temporary, {**self.state, "bytes": sizes, "sha256": digests})
        if self.target.exists():
            shutil.rmtree(self.target)
        self.temporary.rename(self.target)
        keep_last_two(self.target.parent)


def check(path: Path, kinds: tuple[str, ...] = KINDS, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The state of a sharded checkpoint whose files of `kinds` are what was written: each rank reads a share of them.

    Raises:
        UserError: on every rank, something is missing or changed; a rank that found it says what.
    """
    error: UserError | None = None
    state: dict[str, Any] = {}
    try:
        state = read_state(path)
        found = {file.name: file.stat().st_size for file in path.glob("*.safetensors")}
        for name in sorted(found.keys() | state["bytes"].keys()):
            if found.get(name) != state["bytes"].get(name):
                raise UserError(f"{path / name}: corrupt checkpoint (missing, or not the bytes that were written); {REMEDY}")
        names = [name for name in sorted(found) if name.partition("-")[0] in kinds]
        check_files(path, state, names[ranks.rank :: ranks.size])
    except UserError as caught:
        error = caught
    if ranks.any(error is not None):
        raise error or UserError(f"{path}: corrupt checkpoint (another rank says what); {REMEDY}")
    return state


def held_names(path: Path, kind: str) -> set[str]:
    """Names of the tensors of a kind. The checkpoint must have been checked."""
    prefix = f"{kind}/"
    return {name.removeprefix(prefix) for name in _metadata(path) if name.startswith(prefix)}


def load_sharded(path: Path, tensors: Tensors) -> None:
    """Fills `tensors` in place from a checked checkpoint. Each rank reads what it holds, however many wrote.

    Args:
        tensors: sharded in any way, or whole; for each kind in it, every tensor of that kind must be asked for.

    Raises:
        UserError: other tensors, or of other shapes, are held; or they cannot be read.
    """
    held = {name: entry.size for name, entry in _metadata(path).items() if name.partition("/")[0] in tensors}
    wanted = {f"{kind}/{name}": tensor for kind, named in tensors.items() for name, tensor in named.items()}
    if held != {name: tensor.shape for name, tensor in wanted.items()}:
        raise UserError(f"{path}: holds another model's weights; delete the run directory to start again")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each rank plans and reads for itself
        try:
            dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
        except (CheckpointException, SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({str(error).strip().splitlines()[-1]}); {REMEDY}") from error


def stream_sharded(path: Path, kind: str, ranks: Ranks = ALONE) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a kind, whole, on the CPU, one by one. Raises UserError when the checkpoint is damaged; see `check`."""
    state = check(path, (kind,), ranks)
    files = {name: safe_open(path / name, framework="pt") for name in state["sha256"] if name.partition("-")[0] == kind}
    parts: dict[str, list[tuple[str, list[int]]]] = {}
    for name, file in files.items():
        places = json.loads(file.metadata()["DCP_SHARDING_INFO"])
        for key, place in places.items():
            parts.setdefault(key, []).append((name, place["saved_offsets"]))
    for key, entry in _metadata(path).items():
        if not key.startswith(f"{kind}/"):
            continue
        whole = empty(entry.size, dtype=entry.properties.dtype)
        for name, offsets in parts[key]:
            part, target = files[name].get_tensor(key), whole
            for dim, offset in enumerate(offsets):
                target = target.narrow(dim, offset, part.shape[dim])
            target.copy_(part)
        yield key.removeprefix(f"{kind}/"), whole


def _metadata(path: Path) -> dict[str, TensorStorageMetadata]:
    """By `kind/name`: whole shape and dtype, as the headers say."""
    return dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata  # type: ignore[return-value]
