"""Work of fixed shapes that CUDA records once and then replays: one launch in place of hundreds, each of which Python takes
longer to ask for than a small kernel takes to run."""

from collections.abc import Callable

import torch
from torch import Tensor


def captures(wish: str, device: torch.device) -> bool:
    """Whether sampling is captured. `wish`: `parallel.compile`; only where it is on, as it was never measured."""
    return wish == "on" and device.type == "cuda"


class Captured:
    """A function of tensors, each of one shape for good, which waits for no result on the host.

    What it writes beside its result must be the same when it runs again with the same inputs: it runs twice at the first call.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self._graph is None:
            self._record(inputs)
        assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [given.clone() for given in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up in a first run, which cannot be recorded
            self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._function(*self._inputs)
