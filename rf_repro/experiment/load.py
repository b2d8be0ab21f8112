"""What runs leave for others: the last checkpoint, its averaged weights as a model, the VAE behind its latents."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import torch
from torch import nn

from rf_repro.compute.arithmetic import DTYPES, arithmetic
from rf_repro.compute.sharding import fill, on_meta
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.model.layout import POOLS, Pool
from rf_repro.model.pools import owner
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import ImageSpace
from rf_repro.model.spaces import space_of
from rf_repro.train.checkpoint import CheckpointReader, list_checkpoints
from rf_repro.train.vae_trainer import load_vae

META = torch.device("meta")


def last_checkpoint(run: RunDir) -> Path:
    """Raises UserError when the run has none."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        raise UserError(f"{run.checkpoints}: no checkpoint; train the run first, or delete its directory to train it again")
    return checkpoints[-1]


class PooledModel:
    """The model of a checkpoint's averaged weights, in the device's arithmetic, of which `use` loads the pools that some work
    needs. What is not loaded takes no memory: it lies on the meta device, and is read from the checkpoint when it is used.

    Attributes:
        model: in evaluation mode, without gradients; after `use`, its shared part and those pools are on the device.

    Raises:
        UserError: the checkpoint is damaged or of another model.
    """

    def __init__(self, config: ExperimentConfig, checkpoint: Path, vocab_size: int, device: torch.device) -> None:
        self._device, self._reader = device, CheckpointReader(checkpoint, ("ema",))
        with on_meta():
            self.model = RFModel(config, vocab_size)
        self.model.to(DTYPES[arithmetic(config.optim.precision, device)]).eval()
        held, own = self._reader.shapes("ema"), {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        for name, shape in held.items():
            if own.get(name) != shape:
                raise UserError(f"{checkpoint}: {name} {list(shape)}: the model has no such tensor; it belongs to another model")
        if lacking := own.keys() - held.keys():
            raise UserError(f"{checkpoint}: lacks {min(lacking)} and {len(lacking) - 1} others; it belongs to another model")
        self._owners = {name: owner(name) for name in own}
        self._place(own.keys(), META)
        self.model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))  # buffers, which are small
        self._loaded: set[str] = set()

    def use(self, *pools: Pool) -> None:
        """Loads what tokens of these pools pass through, and lets go of what only others do. What is there stays."""
        wanted = {name for name, pool in self._owners.items() if pool is None or pool in pools}
        missing = wanted - self._loaded
        self._place(self._loaded - wanted, META)  # first: what comes takes the memory of what goes
        self._loaded &= wanted
        self._place(missing, self._device)
        self._loaded |= fill(self.model, self._reader.whole("ema", missing))

    def _place(self, names: Set[str], device: torch.device) -> None:
        """Gives parameters memory, of unknown content, or takes it away."""
        for prefix, module in self.model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if f"{prefix}.{name}".removeprefix(".") in names:
                    setattr(module, name, nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=False))

    def bytes_of(self, *pools: Pool) -> int:
        """Of the parameters that `use` loads for these pools."""
        parameters = self.model.named_parameters()
        return sum(p.numel() * p.element_size() for name, p in parameters if self._owners[name] in (None, *pools))


def fits_whole(needed: int, device: torch.device) -> bool:
    """Whether so many bytes are free on the device. A CPU has what its host has, and pages; MPS shares it: both say yes."""
    return device.type != "cuda" or needed <= torch.cuda.mem_get_info(device)[0]


def load_model(
    config: ExperimentConfig, checkpoint: Path, vocab_size: int, device: torch.device, pools: Sequence[Pool] = POOLS
) -> RFModel:
    """The averaged weights of a checkpoint, in the device's arithmetic; never held twice.

    Args:
        pools: those that are needed: of the others nothing is read, and their parameters have no memory.

    Raises:
        UserError: the checkpoint is damaged or of another model.
    """
    pooled = PooledModel(config, checkpoint, vocab_size, device)
    pooled.use(*pools)
    return pooled.model


def image_space(config: ExperimentConfig, done: Mapping[str, RunDir], device: torch.device) -> ImageSpace:
    """What the generation tokens of a config hold; `done`: by kind of prerequisite."""
    return space_of(config.model).build(
        config.model, device, lambda: load_vae(last_checkpoint(done["vae"]), config.model.vae).to(device)
    )
