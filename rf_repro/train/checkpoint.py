"""Checkpoints: folders that appear whole or not at all, and load without running pickled code.

`step-000250/` holds weights.safetensors (fp32 masters, buffers), ema.safetensors, optimizer.pt (tensors and plain values,
read with weights_only), and state.json with the step and every file's SHA-256. Randomness needs no state: each draw of a
step comes from a generator seeded by (seed, stage, step), so the step is the data position and the RNG state.
"""

import os
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_json, write_json
from rf_repro.core.hashing import content_hash, file_sha256

_FILES = ("weights.safetensors", "ema.safetensors", "optimizer.pt")


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
        state = {"step": checkpoint.step, "sha256": digests, "extra": checkpoint.extra}
        write_json(temporary / "state.json", {**state, "digest": content_hash(state)})
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        temporary = None
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, as Python, torch and safetensors report it
        raise UserError(f"{final}: cannot write checkpoint ({error}); free space or choose another --runs folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # best effort: the error above is what the user must see
    for older in list_checkpoints(folder)[:-2]:  # one to fall back to, should the last be damaged
        shutil.rmtree(older)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints by step, earliest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def step_of(checkpoint: Path) -> int:
    """The step that a folder of `list_checkpoints` holds."""
    return int(checkpoint.name.removeprefix("step-"))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint to the CPU.

    Raises:
        UserError: a file is missing, damaged, or not what was written.
    """
    remedy = "delete this folder to go back to the checkpoint before it, or to the start"
    state = read_json(path / "state.json")
    digest = state.pop("digest", None) if isinstance(state, dict) else None
    if digest is None or digest != content_hash(state) or path.name != f"step-{state['step']:06d}":
        raise UserError(f"{path / 'state.json'}: corrupt checkpoint (not the state that was written); {remedy}")
    for name in _FILES:
        if not (path / name).is_file() or file_sha256(path / name) != state["sha256"].get(name):
            raise UserError(f"{path / name}: corrupt checkpoint (missing, or not the bytes that were written); {remedy}")
    try:
        optimizer = torch.load(path / _FILES[2], weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise UserError(f"{path / _FILES[2]}: refused, it holds more than tensors and plain values; {remedy}") from None
    return Checkpoint(
        step=state["step"],
        weights=load_file(path / _FILES[0]),
        ema=load_file(path / _FILES[1]),
        optimizer=optimizer,
        extra=state["extra"],
    )


def load_weights(path: Path, ema: bool) -> dict[str, Tensor]:
    """The weights or the averages of a checkpoint alone. Raises UserError when damaged."""
    checkpoint = load_checkpoint(path)
    return checkpoint.ema if ema else checkpoint.weights
