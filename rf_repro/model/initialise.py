"""All initialisation, in one place. Every parameter draws from a generator of its own name, so that what two variants
share starts from the same values, whatever else they contain."""

import torch
from torch import Tensor, nn

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import derive_seed
from rf_repro.model.layers import RMSNorm
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
    """Fills every parameter from `seed` and its name.

    Matrices: normal, std 1/sqrt(fan in), halved where they write to the residual stream. Embeddings and tokens: std 0.02.
    Zero: biases, adaLN modulations and the pixel head, so that a fresh generation pathway changes nothing at first.
    Norms and fixed sine-cosine positions keep what their constructors gave.
    """
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_name}.{name}".lstrip(".")
            generator = torch.Generator().manual_seed(derive_seed("init", seed, path))
            if isinstance(module, nn.LayerNorm | RMSNorm) or name == "position" or name.endswith("_position"):
                continue
            if name == "bias" or ".modulation" in path or path == "pixels.head.weight":
                parameter.zero_()
            elif isinstance(module, nn.Linear):
                residual = path.endswith((".out.weight", ".down.weight", ".ffn.2.weight"))
                std = module.in_features**-0.5 * (RESIDUAL_GAIN if residual else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * EMBEDDING_STD)


@torch.no_grad()
def start_from(model: RFModel, state: dict[str, Tensor]) -> None:
    """Loads a shared stage's weights; the new feed-forward pools start as copies of its understanding pool.

    Strict: every parameter outside generation must be in `state`, and everything in `state` must have a place.
    What else generation has keeps its own initialisation.
    """
    own = model.state_dict()
    unplaced = {name for name in state if name not in own or state[name].shape != own[name].shape}
    lacking = {name for name in own if not is_generation(name)} - set(state)
    if unplaced or lacking:
        raise UserError(
            f"shared stage does not fit the model: without a place {sorted(unplaced)[:3]}, lacking {sorted(lacking)[:3]}; "
            "delete the stage's run directory to train it again"
        )
    for name, tensor in own.items():
        source = name
        for pool in ("pixel", "representation"):
            source = source.replace(f".pools.{pool}.", ".pools.understanding.")
            source = source.replace(f".ffn_norms.{pool}.", ".ffn_norms.understanding.")
        if source in state:
            tensor.copy_(state[source])
