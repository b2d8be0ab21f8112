"""Exponential moving averages: of all parameters for inference (App. A), of the encoder for targets (Sec. 3.1)."""

import torch
from torch import Tensor

from rf_repro.compute.sharding import local


class Average:
    """float32 averages of named tensors, in parts where those are. Early on the decay grows as (1 + n)/(10 + n), so the start
    is forgotten."""

    def __init__(self, tensors: dict[str, Tensor], decay: float, warm_up: bool) -> None:
        """`warm_up` is for weights that start random; an average of pretrained weights starts at full decay."""
        self.decay, self.warm_up = decay, warm_up
        self.values = {name: tensor.detach().float().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor], step: int) -> None:
        """Moves every average towards its tensor after the 1-based `step`."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        pairs = [(local(average), local(tensors[name])) for name, average in self.values.items()]
        torch._foreach_lerp_([average for average, _ in pairs], [tensor for _, tensor in pairs], 1 - decay)
