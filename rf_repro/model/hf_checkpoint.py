"""Reading a Hugging Face checkpoint: config.json and safetensors, in one file or in shards with an index.

Only safetensors are opened: a pickled `.bin` can run code. Shards are mapped into memory and read one tensor at a time.
"""

from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rf_repro.core.errors import UserError
from rf_repro.core.files import read_object
from rf_repro.core.hub import DOWNLOAD, PICKLED, find_model, some

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class HFCheckpoint:
    """An opened checkpoint: its `config`, and its tensors by name. Nothing but headers is read until `read`."""

    def __init__(self, source: str) -> None:
        """
        Args:
            source: a folder, or a hub id `organisation/name` or `organisation/name@revision`.

        Raises:
            UserError: it cannot be had, is not safetensors, a shard is missing or damaged, or the index and shards disagree.
        """
        self.source = source
        self.folder = find_model(source, f"pretrained={source!r}")
        self.config: dict[str, Any] = _read_object(self.folder / CONFIG)
        self._handles: dict[str, Any] = {}
        for path, listed in self._shards().items():
            try:
                handle = safe_open(path, "pt")
                names = set(handle.keys())
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: not a readable safetensors file ({error}); download it again") from None
            if listed is not None and names != listed:
                raise UserError(f"{path}: tensors differ from those that {INDEX} lists: lacking {some(listed - names)}, "
                                f"unlisted {some(names - listed)}; download the checkpoint again")  # fmt: skip
            self._handles |= dict.fromkeys(names, handle)

    def _shards(self) -> dict[Path, set[str] | None]:
        """File -> the tensors that the index lists for it; None where there is no index."""
        if (self.folder / INDEX).is_file():
            files = _read_object(self.folder / INDEX).get("weight_map")
            if not (isinstance(files, dict) and files and all(_is_shard_name(name) for name in files.values())):
                raise UserError(f"{self.folder / INDEX}: weight_map must give each tensor a .safetensors file beside it")
            missing = {name for name in files.values() if not (self.folder / name).is_file()}
            if missing:
                raise UserError(f"{self.folder}: lacks shards {some(missing)} of {INDEX}; download the checkpoint again")
            return {
                self.folder / shard: {name for name, file in files.items() if file == shard}
                for shard in sorted(set(files.values()))
            }
        if (self.folder / SINGLE).is_file():
            return {self.folder / SINGLE: None}
        pickled = {path.name for path in self.folder.iterdir() if path.suffix in PICKLED}
        reason = f"; {some(pickled)} are pickles, which can run code and are never opened: convert them" if pickled else ""
        raise UserError(f"{self.folder}: must hold {SINGLE}, or shards with {INDEX}{reason}")

    @property
    def names(self) -> set[str]:
        return set(self._handles)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handles[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors writes it, a key of DTYPES where it is one we load."""
        return str(self._handles[name].get_slice(name).get_dtype())

    def read(self, name: str) -> Tensor:
        return self._handles[name].get_tensor(name)

    def read_joined(self, names: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
        """The tensors one after the other in memory, as one of `shape`; of one name, the tensor itself."""
        if len(names) == 1:
            return self.read(names[0]).view(shape)
        dtype = DTYPES[self.dtype(names[0])]
        for name in names[1:]:
            dtype = torch.promote_types(dtype, DTYPES[self.dtype(name)])
        joined, start = torch.empty(prod(shape), dtype=dtype), 0
        for name in names:
            part = self.read(name).flatten()
            joined[start : start + len(part)] = part
            start += len(part)
        return joined.view(shape)


def _is_shard_name(name: object) -> bool:
    """Beside the index, never elsewhere."""
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def _read_object(path: Path) -> dict[str, Any]:
    return read_object(path, remedy=DOWNLOAD)
