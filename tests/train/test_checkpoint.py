"""Checkpoints: exact, whole or absent, and never executed."""

import json
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash, file_sha256
from rf_repro.train.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, load_weights, save_checkpoint

SIZE = 20_000  # elements: 80 kB a file


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensor = torch.randn(SIZE, generator=generator)
    return Checkpoint(
        step,
        {"w": tensor, "vq.num_updates": torch.tensor(7)},
        {"w": tensor / 2},
        [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": tensor}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98)}]}],
        {"num_tokens": 12, "compute_seconds": 0.1 + 0.2},
    )


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved, path = checkpoint(5), save_checkpoint(tmp_path, checkpoint(5))
    assert path == tmp_path / "step-000005"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.extra) == (5, saved.extra)
    for own, other in ((loaded.weights, saved.weights), (loaded.ema, saved.ema)):
        assert {name: tensor.dtype for name, tensor in own.items()} == {name: tensor.dtype for name, tensor in other.items()}
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    (optimizer,), (expected,) = loaded.optimizer, saved.optimizer
    assert optimizer["param_groups"] == expected["param_groups"]
    assert torch.equal(optimizer["state"][0]["exp_avg"], expected["state"][0]["exp_avg"])
    assert torch.equal(load_weights(path, ema=True)["w"], saved.ema["w"])
    assert torch.equal(load_weights(path, ema=False)["w"], saved.weights["w"])


def test_the_last_two_are_kept_and_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-killed").mkdir(parents=True)
    (tmp_path / ".writing-killed" / "weights.safetensors").write_bytes(b"half")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    save_checkpoint(tmp_path, checkpoint(3))  # the same step again replaces it
    assert load_checkpoint(tmp_path / "step-000003").step == 3


FILES = ["weights.safetensors", "ema.safetensors", "optimizer.pt"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "exchange"])
def test_damage_is_named(name: str, damage: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1))
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "remove":
        file.unlink()
    else:  # a whole file, but of another checkpoint
        file.write_bytes((save_checkpoint(tmp_path, checkpoint(2)) / name).read_bytes())
    with pytest.raises(UserError, match="corrupt checkpoint") as error:
        load_checkpoint(path)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]\n",
        lambda text: text.replace('"step": 1', '"step": 2'),
        lambda text: text.replace('"extra"', '"extsa"'),
    ],
    ids=["half", "empty", "list", "step", "key"],
)
def test_a_damaged_state_is_named(change, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = save_checkpoint(tmp_path, checkpoint(1))
    file = path / "state.json"
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert str(file) in str(error.value)


class Exploit:
    """What a malicious file would run on unpickling: it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, proof = save_checkpoint(tmp_path, checkpoint(1)), tmp_path / "was-run"
    torch.save([Exploit(proof)], path / "optimizer.pt")
    state = json.loads((path / "state.json").read_text())
    state["sha256"]["optimizer.pt"] = file_sha256(path / "optimizer.pt")  # the digests agree: an attacker can do that
    del state["digest"]
    state["digest"] = content_hash(state)
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"optimizer\.pt: refused") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()
    with open(tmp_path / "plain.pkl", "wb") as file:
        pickle.dump(Exploit(proof), file)
    with open(tmp_path / "plain.pkl", "rb") as file:
        pickle.load(file)
    assert proof.exists()  # the exploit itself works


FULL = """
import resource, sys
from pathlib import Path
from rf_repro.core.errors import UserError
from rf_repro.train.checkpoint import save_checkpoint
from tests.train.test_checkpoint import checkpoint

limit, folder = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_checkpoint(folder, checkpoint(2))
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.mark.parametrize(("limit", "where"), [(10_000, "weights"), (SIZE * 4 + 300, "optimizer")])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(limit: int, where: str, tmp_path: Path) -> None:
    """A child may not write files above `limit` bytes: safetensors and torch meet it at different files."""
    older = save_checkpoint(tmp_path, checkpoint(1))
    sizes = {name: (older / name).stat().st_size for name in FILES}
    assert (sizes["weights.safetensors"] > limit) == (where == "weights")
    assert sizes["optimizer.pt"] > limit
    command = [sys.executable, "-c", FULL, str(limit), str(tmp_path)]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert child.returncode == 1
    assert child.stderr.startswith(f"UserError: {tmp_path / 'step-000002'}: cannot write checkpoint"), child.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert torch.equal(load_checkpoint(older).weights["w"], checkpoint(1).weights["w"])


def test_a_checkpoint_is_whole_from_the_moment_it_is_there(tmp_path: Path) -> None:
    """Another thread looks at the final name all the while 60 MB are written."""
    tensor = torch.zeros(5_000_000)
    final, stop = tmp_path / "step-000003", threading.Event()
    seen: set[tuple[tuple[str, ...], bool]] = set()

    def watch() -> None:
        while not stop.is_set():
            with suppress(FileNotFoundError):
                seen.add((tuple(sorted(os.listdir(final))), (final / "state.json").exists()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    save_checkpoint(tmp_path, Checkpoint(3, {"w": tensor}, {"w": tensor}, [{"state": {0: tensor}}], {}))
    stop.set()
    watcher.join()
    assert seen <= {(tuple(sorted([*FILES, "state.json"])), True)}
    assert final.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "file" / "checkpoints", checkpoint(1))
