"""A device that fails what it is first asked for, and who goes on in its place."""

from collections.abc import Callable

import pytest
import torch

from rf_repro.compute.devices import DeviceFailed, on_device, resolve_device, trying
from rf_repro.compute.ranks import Ranks
from rf_repro.core.errors import Stopped, TrainingDiverged, UserError


@pytest.fixture(autouse=True)
def mps_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def failing_with(error: BaseException, tried: list[str]) -> Callable[[torch.device], str]:
    def work(device: torch.device) -> str:
        tried.append(device.type)
        with trying(device):
            if device.type != "cpu":
                raise error
        return device.type

    return work


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Cannot convert a MPS Tensor to float64 dtype"),
        NotImplementedError("The operator 'aten::x' is not currently implemented"),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        RuntimeError("no kernel image is available for execution on the device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_where_auto_chose_it_the_cpu_goes_on_and_one_line_says_so(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []
    assert on_device("auto", failing_with(error, tried)) == "cpu"
    assert tried == ["mps", "cpu"]
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"mps failed ({type(error).__name__}: {str(error).splitlines()[0]}): going on with the CPU"


def test_a_device_that_was_named_or_may_not_be_left_fails(capsys: pytest.CaptureFixture[str]) -> None:
    for name, may_fall_back in (("mps", True), ("auto", False)):
        tried: list[str] = []
        with pytest.raises(DeviceFailed, match=r"^mps failed \(RuntimeError: broken\); --device cpu does without it$"):
            on_device(name, failing_with(RuntimeError("broken"), tried), may_fall_back)
        assert tried == ["mps"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [UserError("a"), Stopped("b"), TrainingDiverged("c"), KeyboardInterrupt(), OSError("disk")])
def test_what_is_not_the_devices_fault_passes(error: BaseException) -> None:
    tried: list[str] = []
    with pytest.raises(type(error)):
        on_device("auto", failing_with(error, tried))
    assert tried == ["mps"]


def test_the_cpus_errors_and_those_among_ranks_stay_what_they_are() -> None:
    for device, ranks in ((torch.device("cpu"), Ranks()), (torch.device("mps"), Ranks(0, 2))):
        with pytest.raises(RuntimeError, match=r"^broken$"), trying(device, ranks):
            raise RuntimeError("broken")


def test_devices_that_are_not_there_are_named() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device tpu: unknown; choose auto, cpu, cuda, mps"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"--device cuda: torch .* finds none here"):
            resolve_device("cuda")
