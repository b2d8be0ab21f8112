"""Checkpoints: folders that appear whole or not at all, and load without running pickled code.

`step-000250/` holds weights.safetensors (fp32 masters, buffers), ema.safetensors, optimizer.pt (tensors and plain values,
read with weights_only), and state.json with the step and every file's SHA-256. Randomness needs no state: each draw of a
step comes from a generator seeded by (seed, stage, step), so the step is the data position and the RNG state.

What sharded training saves is of another kind (rf_repro.train.sharded_checkpoint), in the same place. Either kind is found,
checked and read for its weights here.
"""

import os
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json
from rf_repro.core.hashing import content_hash, file_sha256

_FILES = ("weights.safetensors", "ema.safetensors", "optimizer.pt")
REMEDY = "delete this folder to go back to the checkpoint before it, or to the start"


@dataclass(frozen=True)
class Checkpoint:
    """weights, ema: name -> tensor; optimizer: state dictionaries; extra: JSON-ready values (counters)."""

    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: list[dict[str, Any]]
    extra: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `folder/step-XXXXXX` and removes all older checkpoints but one.

    Raises:
        UserError: the disk is full or the folder cannot be written; older checkpoints are kept then.
    """
    final = folder / f"step-{checkpoint.step:06d}"
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".writing-{os.getpid()}"
        temporary.mkdir(exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, temporary / _FILES[0])
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.ema.items()}, temporary / _FILES[1])
        torch.save(checkpoint.optimizer, temporary / _FILES[2])
        digests = {name: file_sha256(temporary / name) for name in _FILES}
        write_state(temporary, {"step": checkpoint.step, "sha256": digests, "extra": checkpoint.extra})
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        temporary = None
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, as Python, torch and safetensors report it
        raise UserError(f"{final}: cannot write checkpoint ({error}); free space or choose another --runs folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # best effort: the error above is what the user must see
    keep_last_two(folder)
    return final


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes state.json: step, files and what the kind needs, with a digest of itself."""
    write_json(folder / "state.json", {**state, "digest": content_hash(state)})


def keep_last_two(folder: Path) -> None:
    """Removes older checkpoints than the last two, and what a killed process left."""
    for older in list_checkpoints(folder)[:-2]:  # one to fall back to, should the last be damaged
        shutil.rmtree(older)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints by step, earliest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def step_of(checkpoint: Path) -> int:
    """The step that a folder of `list_checkpoints` holds."""
    return int(checkpoint.name.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """The content of state.json. Raises UserError where it is missing or not what was written."""
    state = read_json(path / "state.json")
    digest = state.pop("digest", None) if isinstance(state, dict) else None
    if digest is None or digest != content_hash(state) or path.name != f"step-{state['step']:06d}":
        raise UserError(f"{path / 'state.json'}: corrupt checkpoint (not the state that was written); {REMEDY}")
    return state


def check_files(path: Path, state: dict[str, Any], names: Iterable[str]) -> None:
    """Compares files with the digests in `state`. Raises UserError naming one that is missing or was changed."""
    for name in names:
        if not (path / name).is_file() or file_sha256(path / name) != state["sha256"].get(name):
            raise UserError(f"{path / name}: corrupt checkpoint (missing, or not the bytes that were written); {REMEDY}")


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether sharded training wrote it. Raises UserError as `read_state`."""
    return read_state(path).get("kind") == "sharded"


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint of unsharded training to the CPU.

    Raises:
        UserError: a file is missing, damaged, or not what was written; or it is of sharded training.
    """
    state = read_state(path)
    if state.get("kind") == "sharded":
        raise UserError(f"{path}: a checkpoint of sharded training, where one of unsharded is needed; train it again unsharded")
    check_files(path, state, _FILES)
    try:
        optimizer = torch.load(path / _FILES[2], weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise UserError(f"{path / _FILES[2]}: refused, it holds more than tensors and plain values; {REMEDY}") from None
    return Checkpoint(
        step=state["step"],
        weights=load_file(path / _FILES[0]),
        ema=load_file(path / _FILES[1]),
        optimizer=optimizer,
        extra=state["extra"],
    )


def load_weights(path: Path, ema: bool) -> dict[str, Tensor]:
    """The weights or the averages of a checkpoint of either kind alone, whole, on the CPU. Raises UserError when damaged."""
    return dict(stream_weights(path, ema))


def stream_weights(path: Path, ema: bool, ranks: Ranks = ALONE) -> Iterator[tuple[str, Tensor]]:
    """As `load_weights`, one by one: no more than one tensor need be held. `rf_repro.compute.sharding.fill` takes them.

    Args:
        ranks: who all stream it at the same time, and share the work of checking a sharded one for damage.
    """
    state = read_state(path)
    if state.get("kind") == "sharded":
        from rf_repro.train.sharded_checkpoint import stream_sharded  # which builds on this module

        yield from stream_sharded(path, "ema" if ema else "weights", ranks)
        return
    check_files(path, state, _FILES)
    with safe_open(path / _FILES[1 if ema else 0], framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            yield name, file.get_tensor(name)
