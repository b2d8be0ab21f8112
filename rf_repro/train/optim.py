"""Optimisers over fp32 master weights (paper App. A: AdamW, warm-up then constant, clipping, 4x rate for generation).

Where a run computes in bf16 the model holds bf16 weights and the optimiser steps fp32 copies of them; where it computes in fp32,
or the model is sharded, the masters are the model's own parameters.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import is_sharded
from rf_repro.config.training_schema import OptimConfig, StageConfig
from rf_repro.core.errors import UserError
from rf_repro.model.initialise import is_generation
from rf_repro.train.muon import Muon


def rate_factor(step: int, stage: StageConfig) -> float:
    """Share of the learning rate at a 1-based step: linear warm-up, constant, optional linear decay at the end."""
    factor = min(1.0, step / max(stage.warmup_steps, 1))
    if stage.decay_fraction:
        factor *= min(1.0, (stage.steps - step + 1) / (stage.decay_fraction * stage.steps))
    return factor


class MasterOptimizer:
    """AdamW, or Muon on the decoder's block matrices beside it, with one schedule and one gradient norm."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        optim: OptimConfig,
        stage: StageConfig,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            parameters: what this stage trains, by name, still in float32; the model is cast afterwards. Or all of them
                sharded: those stay float32, and their gradients come summed.
            dtype: what the model computes in, bfloat16 or float32; Muon orthogonalises in it.
            ranks: whose gradients are summed.

        Raises:
            UserError: Muon over sharded parameters.
        """
        self.stage, self.grad_clip, self.ranks = stage, optim.grad_clip, ranks
        self.parameters = parameters
        self.sharded = is_sharded(parameters.values())
        assert not self.sharded or all(isinstance(parameter, DTensor) for parameter in parameters.values())
        if self.sharded and stage.optimizer == "muon":
            raise UserError(
                f"stages.{stage.name}.optimizer=muon: works on whole matrices, of which parallel.sharding=fsdp keeps parts; "
                "choose adamw, or parallel.sharding=none"
            )
        self.masters = {
            name: parameter if dtype == torch.float32 or self.sharded else parameter.detach().float().clone()
            for name, parameter in parameters.items()
        }
        groups: dict[tuple[bool, float], list[Tensor]] = {}
        for name, master in self.masters.items():
            use_muon = stage.optimizer == "muon" and is_block_matrix(name, master)
            groups.setdefault((use_muon, _rate_multiplier(name, optim, stage)), []).append(master)
        self.optimizers: list[torch.optim.Optimizer] = []
        for use_muon in (False, True):
            params = [
                {"params": members, "lr": rate, "base_lr": rate}
                for (is_muon, multiplier), members in groups.items()
                if is_muon == use_muon
                for rate in [multiplier * (stage.muon_learning_rate if use_muon else stage.learning_rate)]
            ]
            if params and use_muon:
                self.optimizers.append(Muon(params, optim.weight_decay, dtype))
            elif params:
                decay, betas = optim.weight_decay, optim.betas
                self.optimizers.append(torch.optim.AdamW(params, betas=betas, eps=optim.eps, weight_decay=decay, fused=True))

    @torch.no_grad()
    def step(self, step: int) -> float:
        """Moves gradients to the masters, sums them over ranks, clips, steps, copies back. Returns the norm of the summed
        gradient before clipping; nothing was stepped if it is not finite."""
        for name, parameter in self.parameters.items():
            if parameter is not self.masters[name]:
                self.masters[name].grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        if not self.sharded:
            self._sum_gradients()
        norm = self._clip([master for master in self.masters.values() if master.grad is not None])
        if not math.isfinite(norm):
            return norm
        factor = rate_factor(step, self.stage)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.copy_to_model()
        return norm

    def _clip(self, masters: list[Tensor]) -> float:
        """Scales gradients to `grad_clip` at most, and returns their norm before: that of all parts together."""
        if not self.sharded:
            return float(nn.utils.clip_grad_norm_(masters, self.grad_clip))
        total = nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
        norm = total.full_tensor() if isinstance(total, DTensor) else total
        nn.utils.clip_grads_with_norm_(masters, self.grad_clip, norm)
        return float(norm)

    def _sum_gradients(self) -> None:
        """A rank may lack some: of experts that none of its tokens chose, of ways in that none of its samples took."""
        if self.ranks.size == 1:
            return
        masters = list(self.masters.values())
        present = torch.tensor([master.grad is not None for master in masters]).int()
        self.ranks.sum_([present])
        for master, holders in zip(masters, present.tolist(), strict=True):
            if holders and master.grad is None:
                master.grad = torch.zeros_like(master)
        self.ranks.sum_([master.grad for master in masters if master.grad is not None])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Writes the masters into the model's parameters."""
        pairs = [(self.parameters[name], master) for name, master in self.masters.items()]
        pairs = [(parameter, master) for parameter, master in pairs if parameter is not master]
        if pairs:
            torch._foreach_copy_([parameter for parameter, _ in pairs], [master for _, master in pairs])

    @property
    def learning_rate(self) -> float:
        return self.optimizers[0].param_groups[0]["lr"]

    def named_state(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """State tensors as `parameter.moment`, to be read, or written in place; lie in parts where parameters do.

        Args:
            names: of the state wanted, which is made where there is none yet; None: all there is. What belongs to no
                parameter is left out.
        """
        keys: dict[str, set[str]] = {}
        for parameter, _, key in (name.rpartition(".") for name in names or ()):
            keys.setdefault(parameter, set()).add(key)
        by_master = {id(master): name for name, master in self.masters.items()}
        found = {}
        for optimizer in self.optimizers:
            for master in (master for group in optimizer.param_groups for master in group["params"]):
                name, state = by_master[id(master)], optimizer.state[master]
                for key in keys.get(name, ()) if names is not None else state:
                    if key not in state:
                        is_count = key == "step"
                        state[key] = torch.zeros((), device=master.device) if is_count else torch.zeros_like(master)
                    found[f"{name}.{key}"] = state[key]
        return found


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon steps the parameter, where the stage has it."""
    return name.startswith(("decoder.blocks.", "encoder.blocks.")) and parameter.ndim == 2 and ".modulation." not in name


def _rate_multiplier(name: str, optim: OptimConfig, stage: StageConfig) -> float:
    if name.startswith("encoder."):
        return stage.encoder_lr_multiplier
    return optim.generation_lr_multiplier if is_generation(name) else 1.0
