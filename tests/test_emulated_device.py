"""The emulation of an accelerator that this machine lacks: what it takes and refuses, as the real ones do."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rf_repro.compute.devices import resolve_device
from rf_repro.maths.layers import RMSNorm
from tests.support.emulated_device import Emulation, emulated_device

FLOAT64 = "doesn't support float64. Please use float32"
TWO_DEVICES = "found at least two devices"
GENERATOR = "device type for generator but found 'cpu'"


@pytest.fixture(params=["mps", "cuda"])
def emulation(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    with emulated_device(request.param) as emulation:
        yield emulation


def test_auto_finds_it(emulation: Emulation) -> None:
    device = resolve_device("auto")
    assert device.type == emulation.device.type
    for tensor in (
        torch.ones(2).to(device),
        torch.ones(2, device=device),
        torch.ones(2).to(device) + 1,
        nn.Linear(2, 2).to(device).bias,
    ):
        assert tensor.device == emulation.device
        assert tensor.cpu().device.type == "cpu"


@pytest.mark.parametrize(
    ("operation", "error", "words"),
    [
        (lambda x: x + torch.ones(3), RuntimeError, TWO_DEVICES),
        (lambda x: torch.ones(3).mul_(x), RuntimeError, TWO_DEVICES),
        (lambda x: torch.ones(()).mul_(x[0]), RuntimeError, TWO_DEVICES),
        (lambda x: torch.stack([x[0], torch.ones(())]), RuntimeError, TWO_DEVICES),
        (lambda x: torch.ones(3)[x.long()], RuntimeError, TWO_DEVICES),
        (lambda x: F.embedding(torch.tensor([1]), x[:, None]), RuntimeError, TWO_DEVICES),
        (lambda x: torch.rand(3, device=x.device, generator=torch.Generator()), RuntimeError, GENERATOR),
        (lambda x: x.normal_(generator=torch.Generator()), RuntimeError, GENERATOR),
        (lambda x: torch.multinomial(x, 1, generator=torch.Generator()), RuntimeError, GENERATOR),
        (lambda x: x.numpy(), TypeError, "can't convert .*:0 device type tensor to numpy"),
        (lambda x: np.asarray(x), TypeError, "can't convert .*:0 device type tensor to numpy"),
        (lambda x: torch.Generator(x.device), RuntimeError, "[gG]enerator"),
    ],
)
def test_refuses(emulation: Emulation, operation: Callable[[Tensor], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        operation(torch.ones(3, device=emulation.device))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.double(),
        lambda x: torch.zeros(3, dtype=torch.float64, device=x.device),
        lambda x: torch.from_numpy(np.zeros(3)).to(x.device),
        lambda x: x.sum(dtype=torch.float64),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.zeros(3, dtype=torch.float64).copy_(x),
    ],
)
def test_float64_is_refused_on_mps_alone(operation: Callable[[Tensor], Tensor]) -> None:
    with emulated_device("mps") as emulation, pytest.raises(TypeError, match=FLOAT64):
        operation(torch.ones(3, device=emulation.device))
    with emulated_device("cuda") as emulation:
        assert operation(torch.ones(3, device=emulation.device)).dtype == torch.float64


def test_what_real_devices_take_is_taken(emulation: Emulation) -> None:
    x = torch.arange(4.0, device=emulation.device)
    assert (x + torch.tensor(1.0, dtype=torch.float64)).tolist() == [1, 2, 3, 4]
    assert torch.where(x > 1, x, torch.tensor(9.0)).tolist() == [9, 9, 2, 3]
    assert x[torch.tensor([3, 0])].tolist() == [3, 0]  # indices of the CPU
    assert x.clone().copy_(torch.ones(4).double()).tolist() == [1] * 4
    assert torch.zeros(4).copy_(x).tolist() == [0, 1, 2, 3]
    assert torch.tensor([x[1], x[2]]).tolist() == [1, 2]
    assert torch.zeros_like(x, device="cpu").numpy().shape == (4,)
    assert torch.zeros_like(torch.empty(2, device="meta"), device=emulation.device).tolist() == [0, 0]
    with torch.inference_mode():
        assert (x.view(2, 2) + torch.ones(2, device=emulation.device)).tolist() == [[1, 2], [3, 4]]


def test_views_share_memory(emulation: Emulation) -> None:
    x = torch.zeros(2, 3, device=emulation.device)
    row, column = x[0], x.T[1]
    row.add_(1)
    column[1] = 5
    x.view(-1)[2:3].fill_(7)
    assert x.tolist() == [[1, 1, 7], [0, 5, 0]]
    assert row.tolist() == [1, 1, 7]


class Network(nn.Module):
    """Some of everything: a custom gradient, a part that is unused, fused attention, a layer that is computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.out = RMSNorm(16, 1e-6), nn.Linear(16, 48), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + checkpoint(self.attend, x, use_reentrant=False)
        kept, _ = x.split([3, 2], 1)
        return self.out(kept).square().mean()

    def attend(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)[:, None] / x.shape[1]
        q, k, v = self.mix(self.norm(x + places)).unflatten(-1, (6, 8)).transpose(1, 2).chunk(3, 1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_training_has_the_bits_of_the_cpu(emulation: Emulation) -> None:
    torch.manual_seed(0)
    network, x = Network(), torch.randn(4, 5, 16)
    moved = copy.deepcopy(network)
    before = list(moved.parameters())
    moved.to(emulation.device)
    assert all(one is other for one, other in zip(before, moved.parameters(), strict=True))
    moved = copy.deepcopy(moved)
    moved.load_state_dict(network.state_dict())
    inputs = torch.nn.Parameter(x.clone())
    for module, given in ((network, x), (moved, inputs.to(emulation.device))):
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            module(given).backward(retain_graph=True)
            nn.utils.clip_grad_norm_(module.parameters(), 0.1)
            optimizer.step()
    for (name, parameter), own in zip(network.named_parameters(), moved.parameters(), strict=True):
        assert own.device == emulation.device
        assert torch.equal(own.cpu(), parameter), name
        assert torch.equal(own.grad.cpu(), parameter.grad), name
    assert inputs.grad is not None  # through the move to the device
    assert not inputs.grad.is_mps


def test_what_has_no_kernel_or_is_broken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated_device("mps") as emulation:
        with pytest.raises(NotImplementedError, match="'aten::special_ndtri' is not currently implemented for the MPS device"):
            torch.special.ndtri(torch.full((3,), 0.5, device="mps"))
        assert {"aten::full"} <= emulation.ran
    monkeypatch.setenv("RF_TEST_EMULATED_BROKEN", "aten::mm,aten::add.Tensor")
    for kind, error in (("mps", NotImplementedError), ("cuda", RuntimeError)):
        with emulated_device(kind):
            x = torch.ones(2, 2, device=kind)
            for operation in (lambda x=x: x @ x, lambda x=x: x + x):
                with pytest.raises(error, match=r"'aten::(mm|add.Tensor)'"):
                    operation()
            assert (x * 2).sum().item() == 8


def test_cuda_counts_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with emulated_device("cuda"):
        assert torch.cuda.device_count() == 2
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert torch.cuda.device_count() == 1
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert not torch.cuda.is_available()
    assert not torch.backends.mps.is_available()


def test_processes_have_it_once_they_import_torch() -> None:
    script = (
        "import sys, rf_repro.core.errors; assert 'torch' not in sys.modules; import torch; print(torch.ones(1, device='mps'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"RF_TEST_EMULATED_DEVICE": "mps"}, capture_output=True
    )
    assert done.stdout == b"tensor([1.0], device='mps:0')\n", done.stderr
