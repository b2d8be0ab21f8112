"""All initialisation, in one place. Every parameter draws from a generator of its own name, so that what two variants
share starts from the same values, whatever else they contain."""

from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor, nn

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.maths.layers import RMSNorm
from rf_repro.model.experts import Experts
from rf_repro.model.rf_model import RFModel

EMBEDDING_STD = 0.02
RESIDUAL_GAIN = 0.5  # of the matrices that write to the residual stream

# Modules that only generation has: the paper's "newly initialised generation parameters" (App. A).
_GENERATION_PARTS = ("pixels.", "representation.", "alignment.", ".modulation.", ".pools.pixel.", ".pools.representation.",
                     ".ffn_norms.pixel.", ".ffn_norms.representation.")  # fmt: skip


def is_generation(name: str) -> bool:
    """Whether a parameter of RFModel belongs to generation alone."""
    return any(name.startswith(part) or part in name for part in _GENERATION_PARTS)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fills every parameter from `seed` and its name; see `initial_values`."""
    own = dict(model.named_parameters())
    for name, tensor in initial_values(model, seed):
        own[name].copy_(tensor)


def initial_values(model: nn.Module, seed: int, given: Container[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and first value, whole, float32, on the CPU, one by one: of the model only names and shapes matter.
    Those in `given` are left out: billions of draws that nobody needs take minutes.

    Matrices: normal, std 1/sqrt(fan in), halved where they write to the residual stream. Embeddings and tokens: std 0.02.
    Zero: biases, adaLN modulations and the pixel head, so that a fresh generation pathway changes nothing at first.
    Norms, DINOv3's layer scales and fixed sine-cosine positions keep what their constructors gave: they are left out.
    """
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_name}.{name}".lstrip(".")
            if path in given:
                continue
            generator = torch.Generator().manual_seed(derive_seed("init", seed, path))
            if isinstance(module, nn.LayerNorm | RMSNorm) or name in ("position", "lambda1") or name.endswith("_position"):
                continue
            if name == "bias" or ".modulation" in path or path == "pixels.head.weight":
                yield path, torch.zeros(parameter.shape)
            elif isinstance(module, nn.Linear | Experts):
                residual = path.endswith((".out.weight", ".down.weight", ".experts.down", ".ffn.2.weight"))
                std = parameter.shape[-1] ** -0.5 * (RESIDUAL_GAIN if residual else 1.0)
                yield path, torch.randn(parameter.shape, generator=generator) * std
            else:
                yield path, torch.randn(parameter.shape, generator=generator) * EMBEDDING_STD


def starting_values(model: RFModel, earlier: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Names and values that a stage starts from, given those of the stage before it, one by one.

    Where the earlier stage had no generation, the new feed-forward pools start as copies of its understanding pool (or stay as
    they are initialised, if `model.decoder.pool_initialisation` says so); what else generation has keeps its own initialisation.

    Raises:
        UserError: strict: a tensor without a place, or, at the end, a parameter outside generation that had no tensor.
    """
    own = dict(model.named_parameters())
    pools = [pool for pool in ("pixel", "representation") if model.config.model.decoder.pool_initialisation == "copy"]
    advice = "delete the stage's run directory to train it again"
    names = set()
    for name, tensor in earlier:
        if name not in own or own[name].shape != tensor.shape:
            raise UserError(f"the stage before does not fit the model: without a place {name} {list(tensor.shape)}; {advice}")
        names.add(name)
        yield name, tensor
        for pool in pools:
            copy = name
            for part in (".pools.", ".ffn_norms."):
                copy = copy.replace(f"{part}understanding.", f"{part}{pool}.")
            if copy != name and copy in own and copy not in names:
                yield copy, tensor
    lacking = {name for name in own if not is_generation(name)} - names
    if lacking:
        raise UserError(f"the stage before does not fit the model: lacking {', '.join(sorted(lacking)[:3])}; {advice}")
