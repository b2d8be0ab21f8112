"""For tests' processes: Python runs this file at its start where this folder is on PYTHONPATH. Nothing in it imports torch.

Torchvision beside a CPU-only torch: the package index has one torchvision wheel, built against CUDA. Its compiled operators
cannot load without CUDA's libraries; since 0.28 it then fails on import (`operator torchvision::nms does not exist`), and with
it every model of transformers and open_clip. None of them calls these operators: it is enough that the names exist when
torchvision describes them. Nothing happens before torchvision is imported, and nothing at all where its operators loaded.

Emulated devices: where RF_TEST_EMULATED_DEVICE is set, torch has that device as soon as it is imported (`emulated_device`).
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
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


class _EmulateDevice(MetaPathFinder):
    """Finds torch as others do, and starts the emulation when it has been imported, for as long as the process lives."""

    running: object | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_emulate(module: ModuleType) -> None:
            execute(module)
            from emulated_device import emulated_device

            self.running = emulated_device(os.environ["RF_TEST_EMULATED_DEVICE"])
            self.running.__enter__()

        spec.loader.exec_module = execute_and_emulate  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _DeclareOperators())
if "RF_TEST_EMULATED_DEVICE" in os.environ:
    sys.meta_path.insert(0, _EmulateDevice())
