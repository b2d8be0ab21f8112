"""Checkpoints: exact, whole or absent, and never executed."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rf_repro.config.training_schema import OptimConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.train.checkpoint import KINDS, REMEDY, Checkpoint, CheckpointReader, list_checkpoints, load_checkpoint, load_weights
from rf_repro.train.checkpoint_writer import CheckpointWriter
from rf_repro.train.optim import MasterOptimizer
from tests.train.test_optim import STAGE

NAMES = ["decoder.blocks.0.a", "decoder.blocks.0.b", "embedding", "decoder.blocks.0.unused"]
SIZE = 20_000  # elements: 80 kB a file
FILES = [f"{kind}-00000.safetensors" for kind in KINDS]


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensor = torch.randn(SIZE, generator=generator)
    return Checkpoint(
        step,
        {"w": tensor, "vq.num_updates": torch.tensor(7), "rows": tensor.view(2, -1).T},
        {"w": tensor / 2, "none": torch.zeros(0, 3)},
        {"w.step": torch.tensor(3.0), "w.exp_avg": tensor.repeat(3)},
        {"num_tokens": 12, "compute_seconds": 0.1 + 0.2},
    )


def save_checkpoint(folder: Path, saved: Checkpoint) -> Path:
    CheckpointWriter().save(folder, saved.step, {kind: getattr(saved, kind) for kind in KINDS}, saved.extra)
    return folder / f"step-{saved.step:06d}"


def rewrite_state(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes state.json so that its digest agrees: an attacker can do that."""
    state = json.loads((path / "state.json").read_text())
    del state["digest"]
    change(state)
    (path / "state.json").write_text(json.dumps({**state, "digest": content_hash(state)}))


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved, path = checkpoint(5), save_checkpoint(tmp_path, checkpoint(5))
    assert path == tmp_path / "step-000005"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.extra) == (5, saved.extra)
    for kind in KINDS:
        own, other = getattr(loaded, kind), getattr(saved, kind)
        assert {name: tensor.dtype for name, tensor in own.items()} == {name: tensor.dtype for name, tensor in other.items()}
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
        filled = {name: torch.full_like(tensor, 9) for name, tensor in other.items()}
        CheckpointReader(path).fill({kind: filled})
        assert all(torch.equal(tensor, other[name]) for name, tensor in filled.items())
    assert torch.equal(load_weights(path, ema=True)["w"], saved.ema["w"])
    assert torch.equal(load_weights(path, ema=False)["w"], saved.weights["w"])


def test_one_rank_writes_a_file_of_each_kind_that_anyone_reads(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(5))
    state = json.loads((path / "state.json").read_text())
    assert sorted(file.name for file in path.iterdir()) == sorted([*FILES, "state.json"])
    assert state["files"] == {
        name: {"bytes": (path / name).stat().st_size, "sha256": hashlib.sha256((path / name).read_bytes()).hexdigest()}
        for name in FILES
    }
    assert torch.equal(load_file(path / FILES[1])["w"], checkpoint(5).ema["w"])
    CheckpointWriter().save(tmp_path, 6, {"weights": checkpoint(6).weights, "ema": {}}, {})
    assert sorted(file.name for file in (tmp_path / "step-000006").iterdir()) == ["state.json", FILES[0]]
    assert load_checkpoint(tmp_path / "step-000006").ema == {}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimiser_goes_on_bit_by_bit(kind: str, tmp_path: Path) -> None:
    """Also where a parameter never had a gradient, and has no moments therefore."""
    stage = replace(STAGE, optimizer=kind)  # type: ignore[arg-type]

    def make() -> MasterOptimizer:
        own = {name: torch.nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))) for name in NAMES}
        return MasterOptimizer(own, OptimConfig(), stage, torch.float32)

    def train(optimizer: MasterOptimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for name in NAMES[:-1]:
                optimizer.parameters[name].grad = torch.randn(4, 4, generator=generator)
            optimizer.step(step)

    whole, first, second = make(), make(), make()
    train(whole, range(1, 7))
    train(first, range(1, 4))
    CheckpointWriter().save(tmp_path, 3, {"weights": first.masters, "optimizer": first.named_state()}, {})
    saved = CheckpointReader(tmp_path / "step-000003")
    assert saved.names("optimizer") == first.named_state().keys()
    assert not [name for name in saved.names("optimizer") if name.startswith(NAMES[-1])]
    saved.fill({"weights": second.masters, "optimizer": second.named_state(saved.names("optimizer"))})
    train(second, range(4, 7))
    for own, other in ((second.masters, whole.masters), (second.named_state(), whole.named_state())):
        assert own.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())


def test_the_last_two_are_kept_and_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-killed").mkdir(parents=True)
    (tmp_path / ".writing-killed" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".writing-killed" / ".tmpJ8lv0E").write_bytes(b"half")  # as safetensors writes
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    save_checkpoint(tmp_path, checkpoint(3))  # the same step again replaces it
    assert load_checkpoint(tmp_path / "step-000003").step == 3


def test_a_process_that_is_killed_as_it_removes_one_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        for file in sorted(folder.iterdir() if folder.exists() else ())[:1]:
            file.unlink()
            raise KeyboardInterrupt

    for step in (3, 3):  # a third one; the same again
        with monkeypatch.context() as patch:
            patch.setattr("rf_repro.train.checkpoint_writer.shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(tmp_path, checkpoint(step))
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000003"]
        assert all(load_checkpoint(path) for path in list_checkpoints(tmp_path))
    save_checkpoint(tmp_path, checkpoint(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


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
    for _ in range(2):  # damaged, then deleted: what helps is the same
        with pytest.raises(UserError) as error:
            load_checkpoint(path)
        assert str(error.value).startswith(f"{file}: corrupt checkpoint (")
        assert str(error.value).endswith(f"; {REMEDY}")
        assert len(str(error.value).splitlines()) == 1
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda state, key=key: state.pop(key) for key in ("step", "files", "extra")),
        *(lambda state, step=step: state.update(step=step) for step in ("1", True, None, [1])),
        *(lambda state, files=files: state.update(files=files) for files in ([], {FILES[0]: 3}, {FILES[0]: {"bytes": 3}})),
    ],
)
def test_a_state_that_lacks_something_is_named_whatever_its_digest_says(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1))
    rewrite_state(path, change)
    with pytest.raises(UserError, match=r"state\.json: corrupt checkpoint \(not .* that was written\)") as error:
        load_checkpoint(path)
    assert str(error.value).endswith(f"; {REMEDY}")


class Exploit:
    """What a malicious file would run on unpickling: it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, proof = save_checkpoint(tmp_path, checkpoint(1)), tmp_path / "was-run"
    torch.save([Exploit(proof)], path / FILES[2])
    content = (path / FILES[2]).read_bytes()
    about = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_state(path, lambda state: state["files"].update({FILES[2]: about}))
    with pytest.raises(UserError, match=rf"{FILES[2]}: refused, not a safetensors file") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()
    with open(tmp_path / "plain.pkl", "wb") as file:
        pickle.dump(Exploit(proof), file)
    with open(tmp_path / "plain.pkl", "rb") as file:
        pickle.load(file)
    assert proof.exists()  # the exploit itself works


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-000001"
    path.mkdir()
    state = {"step": 1, "sha256": {"weights.safetensors": "0"}, "extra": {}}  # as it was until there was one format
    (path / "state.json").write_text(json.dumps({**state, "digest": content_hash(state)}))
    with pytest.raises(UserError, match="checkpoint format 1, where this version reads 2; delete the run directory") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    later = save_checkpoint(tmp_path, checkpoint(2))
    rewrite_state(later, lambda state: state.update(format=3))
    with pytest.raises(UserError, match="checkpoint format 3, where this version reads 2"):
        load_weights(later, ema=True)


FULL = """
import resource, sys
from pathlib import Path
from rf_repro.core.errors import UserError
from tests.train.test_checkpoint import checkpoint, save_checkpoint

limit, folder = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_checkpoint(folder, checkpoint(2))
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.mark.parametrize(("limit", "where"), [(10_000, "weights"), (SIZE * 8 + 1000, "optimizer")])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(limit: int, where: str, tmp_path: Path) -> None:
    """A child may not write files above `limit` bytes, and meets that at different files."""
    older = save_checkpoint(tmp_path, checkpoint(1))
    sizes = {name: (older / name).stat().st_size for name in FILES}
    assert (sizes[FILES[0]] > limit) == (where == "weights")
    assert sizes[FILES[2]] > limit
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
    save_checkpoint(tmp_path, Checkpoint(3, {"w": tensor}, {"w": tensor}, {"w.exp_avg": tensor}, {}))
    stop.set()
    watcher.join()
    assert seen <= {(tuple(sorted([*FILES, "state.json"])), True)}
    assert final.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "file" / "checkpoints", checkpoint(1))


def test_pruning_removes_checkpoints_and_what_was_left_of_them_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("kept")
    for name in ("step-000001", "step-000002", ".writing-000002", ".writing-killed"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights-00000.safetensors").write_bytes(b"half")
    (folder / "step-000001" / "notes.txt").write_text("mine")
    (folder / "step-000000").symlink_to(elsewhere)
    (folder / ".writing-link").symlink_to(elsewhere)
    (folder / ".writing-file").write_text("mine")
    (folder / ".writing-killed" / "link").symlink_to(elsewhere)
    for step in (2, 3):
        save_checkpoint(folder, checkpoint(step))
    assert sorted(item.name for item in folder.iterdir()) == [
        ".writing-file", ".writing-killed", ".writing-link", "step-000000", "step-000001", "step-000002", "step-000003",
    ]  # fmt: skip
    assert (elsewhere / "mine").read_text() == "kept"
    assert load_checkpoint(folder / "step-000002").step == 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc, as Linux has it")
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def renamed(path: Path, to: Path) -> Path:
        done.append("renamed")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    save_checkpoint(tmp_path, checkpoint(5))
    assert {*FILES, ".writing-000005"} < set(done[: done.index("renamed")])
    assert done[done.index("renamed") + 1] == tmp_path.name
