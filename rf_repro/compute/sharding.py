"""Sharded training (FSDP2): each rank keeps a part of every parameter, its gradient, its moments and its average.

Parameters stay float32 and are the masters. A block's are gathered, in the precision of the config, just before it computes
and freed after; its gradients are summed in float32 straight into the parts. What is computed is what one process would.

Relied on: in a micro-step every rank runs every module that was sharded on its own (decoder blocks, encoder layers, the
model), in the same order, on no tokens where it has none, and its loss hangs on them, so that collective calls pair up. Single
parameters inside such a module may go unused: that is a gradient of zero, even where no rank uses them, so that AdamW decays
what an unsharded stage would leave alone. A stage freezes what it never uses.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.checkpoint import checkpoint

from rf_repro.compute.ranks import Ranks
from rf_repro.config.training_schema import ParallelConfig
from rf_repro.core.errors import UserError


def is_sharding(parallel: ParallelConfig, ranks: Ranks) -> bool:
    """Whether parameters are to lie in parts. One process alone has nobody to share them with."""
    return parallel.sharding == "fsdp" and ranks.size > 1


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them lies in parts."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def make_mesh(parallel: ParallelConfig, ranks: Ranks, device_type: str) -> DeviceMesh:
    """The ranks as copies x parts, or as parts of one copy. Every rank calls it, and again for none but a new model.

    Raises:
        UserError: `parallel.shard_group` does not divide the ranks.
    """
    group = parallel.shard_group or ranks.size
    if ranks.size % group:
        divisors = ", ".join(str(count) for count in range(1, ranks.size + 1) if ranks.size % count == 0)
        raise UserError(f"parallel.shard_group={group}: must divide the {ranks.size} ranks; choose 0 (all), {divisors}")
    if group == ranks.size:
        return init_device_mesh(device_type, (group,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (ranks.size // group, group), mesh_dim_names=("replicate", "shard"))


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of an RFModel or of its encoder: what is sharded, and recomputed, one by one."""
    encoder: Any = getattr(model, "encoder", model)
    layers: list[nn.Module] = list(encoder.layers if hasattr(encoder, "layers") else encoder.blocks)
    return [*model.decoder.blocks, *layers] if hasattr(model, "decoder") else layers  # type: ignore[misc, union-attr]


def shard(model: nn.Module, mesh: DeviceMesh, precision: torch.dtype) -> None:
    """Splits the parameters of an RFModel, or of an encoder of its own, over `mesh`, in place.

    Each layer is a unit. What is left of the model is another, which stays whole from its forward pass to the end of its
    backward pass: so methods beside `forward` that use it (`text_cross_entropy`) can be called between, after `forward`.
    Activations are cast nowhere: as in the unsharded model they have the precision of the parameters they meet. Buffers are not
    split and keep their dtype. `model.to(dtype)` must not follow.

    Args:
        model: in float32, on the meta device (then `materialise` and `fill` it) or any other. It keeps its parameters' names;
            the parameters are new objects, `requires_grad` as before.
        precision: of computing and of gathered parameters.
    """
    # An RFModel's outputs are views of the packed hidden states, and nothing writes to them in place.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are normalised by global counts: gradients are summed, and gloo has no other reduction.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True, recurse=False)


def before_backward(model: nn.Module, is_last: bool) -> None:
    """Call before the backward pass of each micro-step of an optimiser step; `is_last` of them.

    Each micro-step's gradients are summed over the shard group at once and added up in float32 parts: without that, every rank
    would hold whole float32 gradients of the whole model (360 GB of 90B parameters), to save traffic that hides behind
    computing. Copies of the model (parallel.shard_group) exchange theirs once, after the last.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(is_last)
        model.set_is_last_backward(is_last)


def checkpoint_activations(layers: Iterable[nn.Module]) -> None:
    """Makes layers keep their inputs alone and compute again in the backward pass. With or without sharding, before or after.

    Names of parameters stay; gradients are the same bits, as nothing in a layer is random. What a layer counts while it
    computes is counted twice.
    """
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


# From nothing to a sharded model that never exists whole


@contextmanager
def on_meta() -> Iterator[None]:
    """Models built in this block have matrices without memory (meta device), so that one of any size can be built.

    What constructors give for good is real: parameters of one dimension (norms), fixed positions, buffers.
    """

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.ndim < 2 or name.endswith("position"):
            return None  # as it is
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(without_memory)
    try:
        yield
    finally:
        handle.remove()


def materialise(model: nn.Module, device: torch.device) -> None:
    """Gives what is on the meta device memory, of unknown content, on `device`; moves the rest there. Parameters may become
    new objects."""
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))


@torch.no_grad()
def fill(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> set[str]:
    """Copies to each rank its own part of whole tensors that come one by one, on any device. Returns their names.

    Where all ranks read the same stream (`initial_values` of a seed, a checkpoint's `stream_weights`), no rank holds more than
    one whole tensor, and nothing is sent.

    Raises:
        UserError: a tensor has no place in the model.
    """
    own, filled = {**dict(model.named_parameters()), **dict(model.named_buffers())}, set()
    for name, whole in tensors:
        if name not in own or own[name].shape != whole.shape:
            raise UserError(f"{name} {list(whole.shape)}: the model has no such tensor; these weights belong to another model")
        copy_part_(own[name], whole)
        filled.add(name)
    return filled


@torch.no_grad()
def copy_part_(target: Tensor, whole: Tensor) -> None:
    """Copies the part of `whole` that this rank holds of `target`, or all of it where `target` is not sharded."""
    for dim, (start, length) in enumerate(zip(*own_region(target), strict=True)):
        whole = whole.narrow(dim, start, length)
    local(target).copy_(whole)


def own_region(tensor: Tensor) -> tuple[list[int], list[int]]:
    """Where what this rank holds begins in the whole tensor, and its shape: all of it where it is not sharded."""
    offsets, shape = [0] * tensor.dim(), list(tensor.shape)
    if not isinstance(tensor, DTensor):
        return offsets, shape
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    for placement, count, index in zip(tensor.placements, tensor.device_mesh.shape, coordinate, strict=True):
        if isinstance(placement, Shard):
            rows = -(-shape[placement.dim] // count)  # of 5 rows over 4 ranks: 2, 2, 1 and none
            start = min(index * rows, shape[placement.dim])
            offsets[placement.dim] += start
            shape[placement.dim] = min(rows, shape[placement.dim] - start)
    return offsets, shape


def is_writer(tensor: Tensor, number: int, ranks: Ranks) -> bool:
    """Whether this rank is the one that writes what it holds of the `number`-th tensor. Of what lies in parts, copies of the
    model (parallel.shard_group) take turns; the rest the first rank writes."""
    if not isinstance(tensor, DTensor):
        return ranks.is_first
    coordinate, copy, copies = tensor.device_mesh.get_coordinate(), 0, 1
    assert coordinate is not None
    for placement, count, index in zip(tensor.placements, tensor.device_mesh.shape, coordinate, strict=True):
        if not isinstance(placement, Shard):
            copy, copies = copy * count + index, copies * count
    return number % copies == copy


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; shares memory with it, and is part of no graph."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_tensors(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor whole, where it lies, one by one. Every rank must go through all of it."""
    for name, tensor in tensors.items():
        yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
