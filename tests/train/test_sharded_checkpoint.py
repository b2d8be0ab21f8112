"""Checkpoints of sharded training: exact, whole or not there, readable by any number of ranks, sharded or not."""

import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rf_repro.compute.ranks import ALONE, Ranks
from rf_repro.compute.sharding import (
    before_backward,
    fill,
    is_sharded,
    local,
    make_mesh,
    materialise,
    on_meta,
    shard,
    whole_tensors,
)
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import Stopped, UserError
from rf_repro.model.initialise import initial_values
from rf_repro.model.rf_model import RFModel
from rf_repro.train.checkpoint import KINDS, CheckpointReader, check, list_checkpoints, load_weights, stream_weights
from rf_repro.train.checkpoint_writer import CheckpointWriter
from rf_repro.train.ema import Average
from rf_repro.train.optim import MasterOptimizer
from tests.model.small import VOCAB, generation_input
from tests.train.processes import run_ranks
from tests.train.test_checkpoint import rewrite_state
from tests.train.test_sharding import FULL, PAIRS, Packs, compare
from tests.train.test_trainer import run_dir

FULL = replace(FULL, stages=(replace(FULL.stages[0], steps=4),))
PAIRS = replace(FULL, parallel=PAIRS.parallel)
ALIKE = replace(FULL, parallel=replace(FULL.parallel, sharding="none"))  # every rank holds all
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = [f"{kind}-{rank:05d}.safetensors" for kind in KINDS for rank in range(2)]


class Counted(Packs):
    """Has something of its own to remember, beside tensors."""

    positions: tuple[int, ...] = ()

    def stepped(self, step: int) -> None:
        super().stepped(step)
        self.positions = (*self.positions, step * self.ranks.size)

    def extra_state(self) -> dict[str, Any]:
        return {"positions": list(self.positions)}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        self.positions = tuple(extra["positions"])


def train_to(ranks: Ranks, config: ExperimentConfig, folder: Path, step: int) -> dict[str, Any]:
    """Goes on in `folder` to the end of `step`."""
    loop = Counted(config, ranks)
    assert is_sharded(loop.state().values()) == (ranks.size > 1 and config.parallel.sharding == "fsdp")

    def is_there() -> bool:
        return loop.step == step

    run = run_dir(folder)
    try:
        loop.run(run, stop=is_there)
    except Stopped:
        assert loop.step == step
    # What is on disk is whole, whatever is still to be written.
    assert list_checkpoints(run.checkpoints)[-1].name == f"step-{step:06d}"
    assert not list(run.checkpoints.glob(".writing*"))
    return {"state": loop.everything(), "logs": [], "positions": loop.positions}


def exact(ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    """Trained in one go; and stopped and resumed."""
    whole = train_to(ranks, FULL, folder / "whole", 4)
    train_to(ranks, FULL, folder / "parts", 1)
    return [whole, train_to(ranks, FULL, folder / "parts", 4)]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    """The folder of two ranks' runs, and what each rank held in the end."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_ranks(exact, 2, folder, folder)


def read_all(path: Path) -> dict[str, dict[str, Tensor]]:
    reader = CheckpointReader(path)
    return {kind: dict(reader.whole(kind)) for kind in KINDS}


def checkpoint_of(folder: Path) -> Path:
    return list_checkpoints(run_dir(folder).checkpoints)[-1]


@pytest.fixture
def checkpoint(trained: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of two ranks' last one, to damage."""
    path = checkpoint_of(trained[0] / "whole")
    return Path(shutil.copytree(path, tmp_path / path.name))


@pytest.mark.dist
def test_resumed_training_is_bit_by_bit_that_which_never_stopped(trained: tuple[Path, list[list[dict[str, Any]]]]) -> None:
    folder, found = trained
    for whole, parts in found:
        same(whole["state"], parts["state"])
        same(whole["state"], found[0][0]["state"])
        assert whole["positions"] == parts["positions"] == (2, 4, 6, 8)
    runs = [run_dir(folder / name) for name in ("whole", "parts")]
    assert [path.name for path in list_checkpoints(runs[0].checkpoints)] == ["step-000002", "step-000004"]
    assert runs[0].metrics()[-1]["tokens"] == runs[1].metrics()[-1]["tokens"]


@pytest.mark.dist
def test_it_holds_what_training_held_in_parts_and_no_pickle(trained: tuple[Path, list[list[dict[str, Any]]]]) -> None:
    folder, ((whole, _), _) = trained
    path = checkpoint_of(folder / "whole")
    assert {file.name for file in path.iterdir()} == {*NAMES, "state.json"}
    read = read_all(path)
    same(read["weights"] | {f"ema.{name}": tensor for name, tensor in read["ema"].items()} | read["optimizer"], whole["state"])
    same(load_weights(path, ema=True), read["ema"])
    same(load_weights(path, ema=False), read["weights"])
    sizes = [(path / name).stat().st_size for name in NAMES]
    assert all(abs(first - second) < 0.25 * first for first, second in zip(sizes[::2], sizes[1::2], strict=True))


@pytest.mark.dist
@pytest.mark.parametrize(
    "order",
    [((2, FULL), (1, FULL), (4, PAIRS), (2, FULL)), ((1, FULL), (2, ALIKE), (2, FULL), (2, ALIKE))],
    ids=["sharded, one, pairs, sharded", "one, alike, sharded, alike"],
)
def test_any_number_of_ranks_goes_on_where_another_stopped(
    order: tuple[tuple[int, ExperimentConfig], ...], trained: tuple[Path, Any], tmp_path: Path
) -> None:
    whole = trained[1][0][0]
    for step, (size, config) in enumerate(order, 1):
        if size == 1:
            found = [train_to(ALONE, config, tmp_path / "run", step)]
        else:
            found = run_ranks(train_to, size, tmp_path, config, tmp_path / "run", step)
        files = len(list(checkpoint_of(tmp_path / "run").glob("*.safetensors")))
        assert files == 3 * (1 if config is ALIKE else size)  # of pairs, too, each writes what the other does not
    compare({**found[0], "logs": []}, {**whole, "logs": []}, 1e-5)
    assert found[0]["positions"] == tuple(step * size for step, (size, _) in enumerate(order, 1))


@pytest.mark.dist
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def test_one_rank_goes_all_the_way_on_a_device(device: str, tmp_path: Path) -> None:
    """From the meta device through bf16 steps to a checkpoint and back: what depends on the kind of device, in one process."""
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        with on_meta():
            model = RFModel(FULL, VOCAB)
        shard(model, make_mesh(FULL.parallel, ALONE, device), torch.bfloat16)
        materialise(model, torch.device(device))
        fill(model, initial_values(model, 0))
        optimizer = MasterOptimizer(dict(model.named_parameters()), FULL.optim, FULL.stages[0], torch.bfloat16)
        average = Average(optimizer.masters, 0.9, warm_up=True)
        given = generation_input(model, 2, 5)
        tensors = {key: value.to(device) for key, value in vars(given).items() if isinstance(value, Tensor)}
        before = {name: tensor.clone() for name, tensor in whole_tensors(optimizer.masters)}
        before_backward(model, is_last=True)
        output = model([replace(given, **tensors)], [])
        (output.generation[0].clean - 1).square().mean().backward()
        assert 0 < optimizer.step(1) < 100
        average.update(optimizer.masters, 1)
        held = {"weights": optimizer.masters, "ema": average.values, "optimizer": optimizer.named_state()}
        writer = CheckpointWriter(ALONE)
        writer.save(tmp_path, 1, held, {})
        expected = {kind: {name: t.cpu().clone() for name, t in whole_tensors(named)} for kind, named in held.items()}
        for tensor in (tensor for named in held.values() for tensor in named.values()):
            local(tensor).zero_()
        writer.wait()
        CheckpointReader(tmp_path / "step-000001").fill(held)
        for kind, named in held.items():
            assert {local(tensor).device.type for tensor in named.values()} == {device}
            same({name: tensor.cpu() for name, tensor in whole_tensors(named)}, expected[kind])
        assert any(not torch.equal(before[name].cpu(), tensor) for name, tensor in expected["weights"].items())
    finally:
        dist.destroy_process_group()


def begin(ranks: Ranks, path: Path) -> dict[str, Tensor]:
    """A sharded model, of other weights, filled from a checkpoint's averages."""
    model = RFModel(PAIRS, VOCAB)
    shard(model, make_mesh(PAIRS.parallel, ranks, "cpu"), torch.float32)
    filled = fill(model, stream_weights(path, ema=True, ranks=ranks))
    assert filled == {name for name, _ in model.named_parameters()}
    return dict(whole_tensors(dict(model.named_parameters())))


@pytest.mark.dist
def test_a_sharded_stage_starts_from_the_averages_of_any(trained: tuple[Path, Any], tmp_path: Path) -> None:
    path = checkpoint_of(trained[0] / "whole")
    for found in run_ranks(begin, 4, tmp_path, path):
        same(found, load_weights(path, ema=True))


def beside(ranks: Ranks, folder: Path) -> list[dict[str, Tensor]]:
    """Saves, and trains on at once; what was held when it was saved, and what was written."""
    loop = Packs(FULL, ranks)
    loop.train_step()
    held, run = loop.everything(), run_dir(folder)
    loop.save(run)
    for _ in range(3):
        loop.train_step()
    loop.wait_for_checkpoint()
    read = read_all(list_checkpoints(run.checkpoints)[-1])
    return [held, read["weights"] | {f"ema.{name}": tensor for name, tensor in read["ema"].items()} | read["optimizer"]]


def full_disk(ranks: Ranks, folder: Path, full: int, is_sharded: bool) -> str:
    """The second checkpoint does not fit on the disk of rank `full`: what this rank says. A killed process left a file."""
    writer, rows = CheckpointWriter(ranks), torch.arange(4000.0)
    if is_sharded:
        rows = distribute_tensor(rows, init_device_mesh("cpu", (ranks.size,)), [Shard(0)])
    (folder / ".writing-000001").mkdir(parents=True, exist_ok=True)
    (folder / ".writing-000001" / "weights-00007.safetensors").touch()
    ranks.barrier()
    writer.save(folder, 1, {"weights": {"w": rows}}, {})
    writer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        writer.save(folder, 2, {"weights": {"w": rows}}, {})
        writer.wait()
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return "written"


def beside_and_full_disk(ranks: Ranks, folder: Path) -> list[Any]:
    return [
        *beside(ranks, folder / "beside"),
        full_disk(ranks, folder / "parts", 1, True),
        full_disk(ranks, folder / "alike", 0, False),
    ]


@pytest.mark.dist
def test_saving_beside_training_copies_first_and_says_on_every_rank_what_cannot_be_written(tmp_path: Path) -> None:
    targets = [tmp_path / name / "step-000002" for name in ("parts", "alike")]
    for held, written, *messages in run_ranks(beside_and_full_disk, 2, tmp_path, tmp_path):
        same(held, written)
        for message, target, rank in zip(messages, targets, (1, 0), strict=True):
            assert message.startswith(f"{target}: rank {rank} cannot write checkpoint (")
            assert message.endswith("); free space or choose another --runs folder")
            assert "\n" not in message
    for target, size in zip(targets, (2, 1), strict=True):
        assert [path.name for path in target.parent.iterdir()] == ["step-000001"]
        (older,) = list_checkpoints(target.parent)
        assert {path.name for path in older.iterdir()} == {*NAMES[:size], "state.json"}
        assert torch.equal(load_weights(older, ema=False)["w"], torch.arange(4000.0))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.dist
@pytest.mark.parametrize("damage", [Path.unlink, cut, flip])
@pytest.mark.parametrize("name", ["ema-00001.safetensors", "state.json"])
def test_damage_is_found_and_named(checkpoint: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(checkpoint / name)
    with pytest.raises(UserError, match=rf"{name}: (corrupt checkpoint|no such file|not valid JSON)"):
        load_weights(checkpoint, ema=True)
    with pytest.raises(UserError, match=name):
        check(checkpoint)


@pytest.mark.dist
def test_files_that_were_not_written_are_not_read(checkpoint: Path) -> None:
    shutil.copy(checkpoint / NAMES[0], checkpoint / "ema-00002.safetensors")
    with pytest.raises(UserError, match=r"ema-00002.safetensors: corrupt checkpoint"):
        load_weights(checkpoint, ema=True)


@pytest.mark.dist
def test_a_part_that_nobody_wrote_is_missed(checkpoint: Path) -> None:
    (checkpoint / "ema-00001.safetensors").unlink()
    rewrite_state(checkpoint, lambda state: state["files"].pop("ema-00001.safetensors"))
    with pytest.raises(UserError, match=r"step-000004: corrupt checkpoint \(a part of .* is missing\)"):
        load_weights(checkpoint, ema=True)
    assert load_weights(checkpoint, ema=False)


@pytest.mark.dist
def test_another_model_is_refused(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    own = {name: torch.zeros(tensor.shape) for name, tensor in load_weights(checkpoint, ema=True).items()}
    assert own.keys() == reader.names("ema")
    reader.fill({"ema": own})
    same(own, load_weights(checkpoint, ema=True))
    name = next(iter(own))
    for changed in ({**own, "more": torch.zeros(2)}, {**own, name: own[name][None]}, {n: t for n, t in own.items() if n != name}):
        with pytest.raises(UserError, match="holds another model's weights"):
            reader.fill({"ema": changed})


def disagree(ranks: Ranks, path: Path) -> str:
    with pytest.raises(UserError) as error:
        check(path, ranks=ranks)
    return str(error.value)


@pytest.mark.dist
def test_damage_that_one_rank_finds_stops_all(checkpoint: Path, tmp_path: Path) -> None:
    flip(checkpoint / "weights-00001.safetensors")
    messages = run_ranks(disagree, 2, tmp_path, checkpoint)
    assert sorted("another rank says what" in message for message in messages) == [False, True]
    assert sum("weights-00001.safetensors: corrupt checkpoint" in message for message in messages) == 1
