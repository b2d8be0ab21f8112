"""Lets torchvision be imported beside a CPU-only torch; Python runs this file at its start where this folder is on PYTHONPATH.

The package index has one torchvision wheel, built against CUDA. Its compiled operators cannot load without CUDA's libraries;
since 0.28 it then fails on import (`operator torchvision::nms does not exist`), and with it every model of transformers and
open_clip. None of them calls these operators: it is enough that the names exist when torchvision describes them.

Nothing happens before torchvision is imported, and nothing at all where its operators loaded.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

DESCRIBER = "torchvision._meta_registrations"  # imported after torchvision tried to load its operators
OPERATORS = ("nms", "qnms")  # those it describes unconditionally


class _DeclareOperators(MetaPathFinder):
    """Finds no module; it sees `DESCRIBER` asked for, and declares the missing operators before that runs."""

    declared: object | None = None  # torch drops declarations with the object that made them

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == DESCRIBER:
            import torch

            missing = [operator for operator in OPERATORS if not hasattr(torch.ops.torchvision, operator)]
            if missing:
                self.declared = torch.library.Library("torchvision", "FRAGMENT")
                for operator in missing:
                    self.declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _DeclareOperators())
