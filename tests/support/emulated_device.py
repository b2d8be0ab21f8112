"""A device "mps" or "cuda" that exists without hardware: tensors in the CPU's memory, with an accelerator's limits.

    with emulated_device("mps") as device: ...              # in this process and thread
    RF_TEST_EMULATED_DEVICE=mps rf-repro reproduce ...      # in every process with tests/support on PYTHONPATH

Refused, in torch's words: float64 on "mps", and what has no kernel there; tensors of two devices in one operation; the CPU's
generator for a draw on the device; `.numpy()` before `.cpu()`. Results are the CPU's, bit for bit.

Environment, read where the emulation starts:
    RF_TEST_EMULATED_BROKEN: ATen operators, by commas (`aten::mm,aten::add.Tensor`), that fail on the device: on "mps" as one
        without kernel, on "cuda" as a GPU for which this torch has no code.
    RF_TEST_EMULATED_LOG: a file to which each process adds the names of the operators that it ran on the device, each once.
    CUDA_VISIBLE_DEVICES: what `torch.cuda.device_count()` counts; two GPUs where it is not set.

How: to torch's C++ an emulated tensor lies on the CPU, so that kernels, decompositions and the autograd thread are the CPU's.
Each operation on it arrives in `Emulation.run`; a function mode sees what asks for the device by name. What formulas of gradients
make in C++ (zeros for a part that was not used) comes as the CPU's, and is taken for the device's.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchgen
import yaml
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map_only

NO_KERNEL: dict[str, tuple[type[Exception], str]] = {
    "mps": (
        NotImplementedError,
        "The operator '{}' is not currently implemented for the MPS device. If you want this op to be considered for addition "
        "please comment on https://github.com/pytorch/pytorch/issues/141287. As a temporary fix, you can set the environment "
        "variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op.",
    ),
    "cuda": (RuntimeError, "CUDA error: no kernel image is available for execution on the device (at '{}')"),
}
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"  # what attention becomes on a CPU; MPS has another
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # by indices of either device
SCALAR_OF_CPU = (*INDEXING, "aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::where")  # beside pointwise ones
GPU, CAPABILITY = "Emulated GPU", (7, 5)  # before bf16, FlashAttention and grouped matrix products, none of which the CPU has


class Emulation:
    """What the device does, and the names of the operators that it did: `ran`, as `aten::add.Tensor`."""

    def __init__(self, kind: str) -> None:
        if kind not in NO_KERNEL:
            raise ValueError(f"emulated device {kind!r}: must be {' or '.join(NO_KERNEL)}")
        self.device = torch.device(kind, 0)
        self.ran: set[str] = set()
        self._works: set[Any] = set()
        self._broken = os.environ.get("RF_TEST_EMULATED_BROKEN", "").split(",")
        self._log = os.environ.get("RF_TEST_EMULATED_LOG")

    def wrap(self, data: Tensor) -> "EmulatedTensor":
        self.check_dtype(data.dtype)
        return EmulatedTensor(data)

    def check_dtype(self, dtype: torch.dtype | None) -> None:
        if self.device.type == "mps" and dtype in (torch.float64, torch.complex128):
            name = str(dtype).removeprefix("torch.")
            words = f"Cannot convert a MPS Tensor to {name} dtype as the MPS framework doesn't support {name}."
            raise TypeError(f"{words} Please use float32 instead.")

    def check_generator(self, generator: torch.Generator | None) -> None:
        if generator is not None:
            raise RuntimeError(f"Expected a '{self.device.type}' device type for generator but found '{generator.device.type}'")

    def check_kernel(self, func: Any) -> None:
        """Refuses what is broken or has no kernel; notes the rest."""
        if func in self._works:
            return
        name = func.name()
        if name in self._broken or func._schema.name in self._broken or (self.device.type == "mps" and not _has_mps_kernel(name)):
            error, words = NO_KERNEL[self.device.type]
            raise error(words.format(name))
        self._works.add(func)
        self.ran.add(name)
        if self._log:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(name + "\n")

    def run(self, func: Any, args: Any, kwargs: Any, from_formula: bool) -> Any:
        """An operation of which at least one tensor is on the device; `from_formula`: of a gradient, where all of them are."""
        self.check_kernel(func)
        changed: list[Tensor] = []
        for place, name in _written_arguments(func):
            _map_tensors(changed.append, args[place] if place < len(args) else kwargs.get(name))
        if not from_formula:
            self._check_devices(func, args, kwargs, changed)
        same: dict[int, Tensor] = {}  # what comes back as the object that went in

        def unwrap(tensor: Tensor) -> Tensor:
            data = tensor.data_on_cpu if isinstance(tensor, EmulatedTensor) else tensor
            same.setdefault(id(data), tensor)
            return data

        plain = {name: _map_tensors(unwrap, value) for name, value in kwargs.items()}
        results = func(*_map_tensors(unwrap, args), **plain)
        for tensor in changed:
            assert not isinstance(tensor, EmulatedTensor) or tensor.shape == tensor.data_on_cpu.shape, f"{func}: resizes in place"
        return _map_tensors(lambda result: same[id(result)] if id(result) in same else self.wrap(result), results)

    def _check_devices(self, func: Any, args: Any, kwargs: Any, changed: list[Tensor]) -> None:
        name = func._schema.name
        self.check_generator(kwargs.get("generator"))
        if name == "aten::copy_":  # from device to device; what comes from MPS is converted there
            self.check_dtype(args[0].dtype)
            return
        takes_scalar = torch.Tag.pointwise in func.tags or name.startswith("aten::_foreach") or name in SCALAR_OF_CPU
        for argument in (*args, *kwargs.values()):
            is_list = isinstance(argument, (list, tuple))
            if is_list and name in INDEXING and isinstance(args[0], EmulatedTensor):
                continue
            for tensor in argument if is_list else (argument,):
                if not isinstance(tensor, Tensor) or isinstance(tensor, EmulatedTensor):
                    continue
                is_scalar = tensor.dim() == 0 and not is_list and not any(tensor is one for one in changed)
                if not (takes_scalar and is_scalar):
                    words = "Expected all tensors to be on the same device, but found at least two devices"
                    raise RuntimeError(f"{words}, {self.device} and {tensor.device}! (when computing {func.name()})")


class EmulatedTensor(Tensor):
    """On the device; `data_on_cpu` holds what it holds, and views share that memory."""

    data_on_cpu: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: Tensor) -> "EmulatedTensor":
        self = Tensor._make_wrapper_subclass(
            cls, data.size(), strides=data.stride(), storage_offset=data.storage_offset(), dtype=data.dtype, device="cpu"
        )
        self.data_on_cpu = data
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from_formula = sys._getframe(1).f_code is _engine_run_backward.__code__
        with torch.inference_mode(False):  # inference tensors cannot be wrapped
            return _active().run(func, args, kwargs or {}, from_formula)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_on_cpu"], None  # with the next, makes `Module.to` keep parameters' identity, as between real devices

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *rest: Any) -> "EmulatedTensor":
        return EmulatedTensor(inner["data_on_cpu"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "EmulatedTensor":
        if id(self) not in memo:
            copied = EmulatedTensor(self.data_on_cpu.clone())
            copied.__dict__ |= {name: value for name, value in self.__dict__.items() if name != "data_on_cpu"}  # `_is_param`
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.data_on_cpu.__reduce_ex__(protocol)  # as `torch.load(map_location="cpu")` reads it

    def __repr__(self, **options: Any) -> str:
        return f"tensor({self.data_on_cpu.tolist()}, device='{self.device}')"

    def tolist(self) -> Any:
        return self.data_on_cpu.tolist()

    def numpy(self, **options: Any) -> Any:
        words = f"can't convert {self.device} device type tensor to numpy."
        raise TypeError(f"{words} Use Tensor.cpu() to copy the tensor to host memory first.")

    device = property(lambda self: _active().device)
    is_cpu = property(lambda self: False)
    is_mps = property(lambda self: self.device.type == "mps")
    is_cuda = property(lambda self: self.device.type == "cuda")


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return _active().wrap(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Tensor:
        return grad.data_on_cpu.clone()


class _ToCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Tensor:
        return x.data_on_cpu.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _active().wrap(grad.detach().clone())


class _Recorder(TorchDispatchMode):
    """For what creates a tensor on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _active().check_kernel(func)
        return func(*args, **(kwargs or {}))


class _DeviceByName(TorchFunctionMode):
    """Does what asks for a device by name: moves, and functions that create."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.cpu, Tensor.cuda):
            return self._move(args[0], func.__name__)
        if func is Tensor.to:
            return self._move(*args, **kwargs)
        for kind in types:
            if kind.__torch_function__ not in (Tensor.__torch_function__, EmulatedTensor.__torch_function__):
                with self:  # a subclass with ways of its own (torch's causal masks), which may ask for the device
                    return kind.__torch_function__(func, types, args, kwargs)
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):  # read numbers out of lists, in C++
            args = tuple(tree_map_only(EmulatedTensor, Tensor.item, one) if type(one) in (list, tuple) else one for one in args)
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        return self._create(func, args, **kwargs)

    def _create(self, func: Any, args: Any, **kwargs: Any) -> Tensor:
        if func in (torch.tensor, torch.as_tensor) and isinstance(args[0], Tensor):
            return self._move(args[0].detach(), kwargs["device"], kwargs.get("dtype"), copy=func is torch.tensor)
        plain = tree_map_only(EmulatedTensor, lambda one: one.data_on_cpu, args)
        if not _names_device(kwargs["device"]):
            return func(*plain if tree_any(lambda one: isinstance(one, EmulatedTensor), args) else args, **kwargs)
        _active().check_generator(kwargs.get("generator"))
        requires_grad = kwargs.pop("requires_grad", False)
        with _Recorder(), torch.inference_mode(False):
            return _active().wrap(func(*plain, **{**kwargs, "device": "cpu"})).requires_grad_(requires_grad)

    def _move(self, x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        """`x.to(...)`, of which this is the other half where it does not come or go."""
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        changes = {"dtype": x.dtype if dtype is None else dtype, "copy": copy}
        changes |= {} if memory_format is None else {"memory_format": memory_format}
        comes, goes = device is not None and _names_device(device), isinstance(x, EmulatedTensor)
        if comes and not goes:
            return _ToDevice.apply(x.to("cpu", **changes))
        if goes and not comes and device is not None:
            _active().check_dtype(dtype)  # MPS converts before it copies
            return _ToCPU.apply(x).to(device, **changes)
        return x.to(**changes) if device is None or goes else x.to(device, **changes)


def _map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """`torch.utils._pytree.tree_map_only` for what operators take and give, in a third of the time."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(_map_tensors(function, one) for one in value) if type(value) in (list, tuple) else value


@cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    """Place and name of those that an operator changes."""
    arguments = enumerate(func._schema.arguments)
    return [(place, one.name) for place, one in arguments if one.alias_info is not None and one.alias_info.is_write]


@cache
def _native_functions() -> dict[str, Any]:
    """Torch's own list of its operators and their kernels, by name with overload."""
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    return {one["func"].split("(")[0]: one for one in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))}


def _has_mps_kernel(name: str) -> bool:
    """Of `aten::add.Tensor`, say: one of its own, or one made of other operators."""
    one = _native_functions().get(name.removeprefix("aten::"))
    if one is None or name.startswith(ATTENTION):
        return one is not None
    if "structured_delegate" in one:
        return _has_mps_kernel(one["structured_delegate"])
    keys = {key.strip() for keys in one.get("dispatch", {}) for key in keys.split(",")}
    return not keys or "MPS" in keys or any(key.startswith("Composite") for key in keys)


_emulation: Emulation | None = None


def _active() -> Emulation:
    assert _emulation is not None, "a tensor of a device whose emulation has ended"
    return _emulation


def _names_device(name: Any) -> bool:
    device = torch.device(name)
    return device.type == _active().device.type and device.index in (None, 0)


def _device_count() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return 2 if visible is None else len([one for one in visible.split(",") if one.strip()])


CUDA = {
    "is_available": lambda: _device_count() > 0,
    "device_count": _device_count,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: GPU,
    "get_device_capability": lambda device=None: CAPABILITY,
    "is_bf16_supported": lambda including_emulation=True: including_emulation,
    "synchronize": lambda device=None: None,
}


@contextmanager
def emulated_device(kind: str) -> Iterator[Emulation]:
    """The emulation of `kind`, "mps" or "cuda", for the block."""
    global _emulation
    assert _emulation is None, "one emulated device at a time"
    emulation, mode = Emulation(kind), _DeviceByName()

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        with mode:  # gradients of custom functions, and recomputed layers, ask for the device too
            return _engine_run_backward(*args, **kwargs)

    replaced: dict[Any, dict[str, Any]] = {torch.autograd: {"_engine_run_backward": run_backward}}
    if kind == "mps":
        replaced |= {torch.backends.mps: {"is_available": lambda: True}}
    else:
        replaced |= {torch.cuda: CUDA, torch: {"compile": lambda function, **options: function}}
    with ExitStack() as stack:
        for module, functions in replaced.items():
            stack.enter_context(mock.patch.multiple(module, **functions))
        _emulation = emulation
        stack.enter_context(mode)
        try:
            yield emulation
        finally:
            _emulation = None
