"""Bytes of tensor storages that are alive, and their peak, while operations run."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts every storage that an operation returns, from then until it is freed. `held` are counted from the start."""

    def __init__(self, held: Iterable[Tensor | None]) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._seen: set[int] = set()
        for tensor in held:
            if tensor is not None:
                self._count(tensor)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or not size:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def freed() -> None:
            self._seen.discard(key)
            self.live -= size

        weakref.finalize(storage, freed)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result
