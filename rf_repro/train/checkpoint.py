"""Checkpoints: their layout and their reader. rf_repro.train.checkpoint_writer writes them.

`step-000250/` holds safetensors files, and state.json with the step, every file's size and SHA-256, and what its writer gave
besides. Every rank that holds something writes a file of each kind: weights-00000.safetensors (fp32 masters, buffers),
ema-00000.safetensors (averages), optimizer-00000.safetensors (moments, as `parameter.moment`). One rank, or ranks that hold the
same, thus make three. Where training is sharded a file's header says where in a whole tensor its part lies: any number of
ranks, sharded or not, reads what any number wrote. Nothing is pickled, so nothing read is run.

Randomness needs no state: each draw of a step comes from a generator seeded by (seed, stage, step), so the step is the data
position and the RNG state.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import local, own_region
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash, file_sha256
from rf_repro.core.typed import Count, typed
from rf_repro.core.untrusted.json_text import parse_json
from rf_repro.core.untrusted.plain_files import read_bytes
from rf_repro.core.untrusted.problems import MAX_JSON_BYTES, shown

FORMAT = 2  # of folder and state.json; 1, which did not say so, had one layout for one rank and another for many
KINDS = ("weights", "ema", "optimizer")
Tensors = Mapping[str, Mapping[str, Tensor]]  # kind -> name -> tensor, sharded or not
REMEDY = "delete this folder to go back to the checkpoint before it, or to the start"


@dataclass(frozen=True)
class Checkpoint:
    """All of one, whole. weights, ema: name -> tensor; optimizer: `parameter.moment` -> tensor; extra: JSON-ready values."""

    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    extra: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Where a part of a tensor lies: in which file, and from where on in the whole, with which shape."""

    file: Any  # an open safetensors file
    offsets: list[int]
    shape: list[int]
    whole: list[int]


@dataclass(frozen=True)
class _Place:
    """Where a part begins in its whole tensor, and the shape of that."""

    offsets: list[Count]
    shape: list[Count]


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints by step, earliest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def step_of(checkpoint: Path) -> int:
    """The step that a folder of `list_checkpoints` holds."""
    return int(checkpoint.name.removeprefix("step-"))


def kind_of(file: str) -> str:
    """The kind of tensors in a file of a checkpoint."""
    return file.partition("-")[0]


def read_state(path: Path) -> dict[str, Any]:
    """The content of state.json. Raises UserError where it is missing, not what was written, or of another version."""
    file = path / "state.json"
    try:
        state = parse_json(read_bytes(file, MAX_JSON_BYTES, f"corrupt checkpoint (no such file); {REMEDY}"))
        digest = state.pop("digest", None) if isinstance(state, dict) else None
        is_whole = digest is not None and digest == content_hash(state)
    except UserError:
        raise
    except ValueError:
        is_whole = False
    if not is_whole or path.name != _folder_name(state.get("step")):
        raise UserError(f"{file}: corrupt checkpoint (not the state that was written); {REMEDY}")
    if state.get("format", 1) != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {state.get('format', 1)}, where this version reads {FORMAT}; delete the run directory to "
            "train it again, or use the version that wrote it"
        )
    if not (_describes(state.get("files")) and isinstance(state.get("extra"), dict)):
        raise UserError(f"{file}: corrupt checkpoint (not all of the state that was written); {REMEDY}")
    return state


def _describes(files: object) -> bool:
    """Whether it says of each file what `check` compares."""
    about = list(files.values()) if isinstance(files, dict) else [None]
    return all(isinstance(one, dict) and {"bytes", "sha256"} <= one.keys() for one in about)


def _folder_name(step: object) -> str:
    """The folder of a step; none of what is no step."""
    return f"step-{step:06d}" if type(step) is int else ""


def check(path: Path, kinds: tuple[str, ...] = KINDS, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The state of a checkpoint whose files of `kinds` are what was written: each rank reads a share of them.

    Raises:
        UserError: on every rank, something is missing or changed; a rank that found it says what.
    """
    error: UserError | None = None
    state: dict[str, Any] = {}
    try:
        state = read_state(path)
        found = {file.name: file.stat().st_size for file in path.glob("*.safetensors") if file.is_file()}
        written = state["files"]
        own = {*sorted(name for name in written if kind_of(name) in kinds)[ranks.rank :: ranks.size]}
        for name in sorted(found.keys() | written.keys()):
            is_whole = name in found and name in written and found[name] == written[name]["bytes"]
            if not is_whole or (name in own and file_sha256(path / name) != written[name]["sha256"]):
                raise UserError(f"{path / name}: corrupt checkpoint (missing, or not the bytes that were written); {REMEDY}")
    except UserError as caught:
        error = caught
    if ranks.any(error is not None):
        raise error or UserError(f"{path}: corrupt checkpoint (another rank says what); {REMEDY}")
    return state


class CheckpointReader:
    """An open checkpoint, found undamaged.

    Args:
        kinds: those that are wanted.
        ranks: who all read it at the same time, and share the work of checking it.

    Raises:
        UserError: on every rank, as of `check`.
    """

    def __init__(self, path: Path, kinds: tuple[str, ...] = KINDS, ranks: Ranks = ALONE) -> None:
        state = check(path, kinds, ranks)
        self.path, self.step, self.extra = path, state["step"], state["extra"]
        self._parts: dict[str, dict[str, list[Part]]] = {kind: {} for kind in kinds}
        for name in state["files"]:
            if kind_of(name) in kinds:
                self._open(name)
        for held in self._parts.values():
            for name, parts in held.items():
                size = torch.Size(parts[0].whole).numel()
                if sum(torch.Size(part.shape).numel() for part in parts) != size:
                    raise UserError(f"{path}: corrupt checkpoint (a part of {name} is missing); {REMEDY}")

    def _open(self, name: str) -> None:
        try:
            file = safe_open(self.path / name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path / name}: refused, not a safetensors file ({error}); {REMEDY}") from error
        try:
            parts = parse_json((file.metadata() or {}).get("parts", "{}"))
            places: dict[str, _Place] = typed(parts, dict[str, _Place], "parts")
        except ValueError as error:
            raise UserError(f"{self.path / name}: corrupt checkpoint ({shown(error)}); {REMEDY}") from None
        for key in file.keys():  # noqa: SIM118 (not a dictionary)
            shape = file.get_slice(key).get_shape()
            place = places.get(key, _Place([0] * len(shape), shape))
            self._parts[kind_of(name)].setdefault(key, []).append(Part(file, place.offsets, shape, place.shape))

    def names(self, kind: str) -> set[str]:
        """Names of the tensors of a kind."""
        return set(self._parts[kind])

    def shapes(self, kind: str) -> dict[str, torch.Size]:
        """Of the whole tensors of a kind; none is read."""
        return {name: torch.Size(parts[0].whole) for name, parts in self._parts[kind].items()}

    def whole(self, kind: str, wanted: Container[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Each tensor of a kind, whole, on the CPU, one by one: no more than one (and its parts) need be held.

        Args:
            wanted: names of those to read; None: all. The others are passed over without being read.
        """
        for name, parts in self._parts[kind].items():
            if wanted is not None and name not in wanted:
                continue
            if len(parts) == 1:
                yield name, parts[0].file.get_tensor(name)
                continue
            pieces = [part.file.get_tensor(name) for part in parts]
            whole = pieces[0].new_empty(parts[0].whole)
            for part, piece in zip(parts, pieces, strict=True):
                whole[_slices(part.offsets, part.shape, [0] * whole.dim())] = piece
            yield name, whole

    @torch.no_grad()
    def fill(self, tensors: Tensors) -> None:
        """Fills `tensors` in place. Each rank reads what it holds, however many wrote.

        Args:
            tensors: sharded in any way, or whole; for each kind in it, every tensor of that kind must be asked for.

        Raises:
            UserError: other tensors, or of other shapes, are held.
        """
        for kind, named in tensors.items():
            if self.shapes(kind) != {name: tensor.shape for name, tensor in named.items()}:
                raise UserError(f"{self.path}: holds another model's weights; delete the run directory to start again")
            for name, tensor in named.items():
                for part in self._parts[kind][name]:
                    _copy_common_(local(tensor), *own_region(tensor), name, part)


def _copy_common_(own: Tensor, offsets: list[int], shape: list[int], name: str, part: Part) -> None:
    """Copies what a rank's `own` region of a tensor has in common with a part of it."""
    starts = [max(pair) for pair in zip(offsets, part.offsets, strict=True)]
    ends = [
        min(offset + length, other + extent)
        for offset, length, other, extent in zip(offsets, shape, part.offsets, part.shape, strict=True)
    ]
    common = [end - start for start, end in zip(starts, ends, strict=True)]
    if any(length <= 0 for length in common):
        return
    piece = part.file.get_slice(name)[_slices(starts, common, part.offsets)]
    own[_slices(starts, common, offsets)].copy_(piece)


def _slices(starts: list[int], shape: list[int], origin: list[int]) -> tuple[slice, ...]:
    return tuple(slice(start - zero, start - zero + length) for start, length, zero in zip(starts, shape, origin, strict=True))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads all of one checkpoint, whole, to the CPU. Raises UserError when it is damaged."""
    reader = CheckpointReader(path)
    weights, ema, optimizer = (dict(reader.whole(kind)) for kind in KINDS)
    return Checkpoint(reader.step, weights, ema, optimizer, reader.extra)


def load_weights(path: Path, ema: bool) -> dict[str, Tensor]:
    """The weights or the averages of a checkpoint alone, whole, on the CPU. Raises UserError when damaged."""
    return dict(stream_weights(path, ema))


def stream_weights(path: Path, ema: bool, ranks: Ranks = ALONE) -> Iterator[tuple[str, Tensor]]:
    """As `load_weights`, one by one: no more than one tensor need be held. `rf_repro.compute.sharding.fill` takes them.

    Args:
        ranks: who all stream it at the same time, and share the work of checking it for damage.
    """
    kind = "ema" if ema else "weights"
    yield from CheckpointReader(path, (kind,), ranks).whole(kind)
