"""A run that is asked and sampled with the pools that the work needs, from its checkpoint: what is read and held, and that
answers and images are the whole model's. A tiny mixture of experts, fp32."""

import shutil
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rf_repro.config.overrides import from_dict
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.estimate.gpus import GPU
from rf_repro.estimate.inference import estimate_action
from rf_repro.experiment import sampling
from rf_repro.experiment.load import PooledModel, fits_whole, last_checkpoint, load_model
from rf_repro.experiment.sampling import sample_prompts
from rf_repro.experiment.vlm import load_rf_vlm
from rf_repro.model.layout import POOLS, Pool
from rf_repro.model.pools import owner
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.vlm import RFVisionLanguageModel
from rf_repro.train.checkpoint import CheckpointReader, load_weights
from rf_repro.train.checkpoint_writer import CheckpointWriter
from tests.killing import kill_at
from tests.test_vlm_rf import BATCH, CHOICES, MOST
from tests.tiny_run import STEP, tiny_changes, write_run
from tests.train.processes import Group

CPU = torch.device("cpu")
PROMPTS = ["a photo of a dog", "a photo of two red circles above a blue square", "a photo of a cat", "dogs", "a photo of a cup"]
SIZE = (32, 64)
EXPERTS: dict[str, Any] = {
    "model.decoder.num_experts": 4, "model.decoder.num_active_experts": 2, "objective.router_weight": 0.001,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("larger")


@pytest.fixture(scope="module")
def run(root: Path) -> RunDir:
    torch.manual_seed(0)
    return write_run(root / "runs", "pixel_rf", tiny_changes(root / "tokenizer") | EXPERTS, seed=3)


def pooled(run: RunDir) -> PooledModel:
    config = from_dict(run.config())
    return PooledModel(config, last_checkpoint(run), config.model.decoder.vocab_size, CPU)


def held(model: RFModel) -> dict[str, Tensor]:
    """Parameters that have memory."""
    return {name: parameter for name, parameter in model.named_parameters() if not parameter.is_meta}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of tensors that are read from checkpoints, in order."""
    names: list[str] = []
    whole = CheckpointReader.whole

    def noted(self: CheckpointReader, kind: str, wanted: Container[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in whole(self, kind, wanted):
            names.append(name)
            yield name, tensor

    monkeypatch.setattr(CheckpointReader, "whole", noted)
    return names


# What is loaded


def test_a_pool_is_read_and_held_alone_and_makes_room_for_the_next(run: RunDir, read: list[str]) -> None:
    expected = load_weights(last_checkpoint(run), ema=True)
    read.clear()
    one, before = pooled(run), set[str]()
    assert not held(one.model)
    turns: tuple[tuple[Pool, ...], ...] = (("understanding",), ("representation",), ("pixel",), ("pixel",), POOLS, ("pixel",))
    for pools in turns:
        read.clear()
        one.use(*pools)
        names = {name for name in expected if owner(name) in (None, *pools)}
        assert held(one.model).keys() == names
        assert len(read) == len(set(read))
        assert set(read) == names - before
        for name, parameter in held(one.model).items():
            assert torch.equal(parameter, expected[name])
            assert not parameter.requires_grad
        assert sum(p.numel() * p.element_size() for p in held(one.model).values()) == one.bytes_of(*pools)
        before = names


def test_the_estimate_has_the_bytes_that_are_loaded(run: RunDir) -> None:
    config, one = from_dict(run.config()), pooled(run)
    small = GPU("small", one.bytes_of(*POOLS), 1e12, 10**12)
    estimate = estimate_action(config, "sample", small, size=SIZE, images=8)
    assert estimate.phases
    assert not estimate.fits  # 2 GB for CUDA alone
    for pool in POOLS:
        one.use(pool)
        loaded = sum(p.numel() * p.element_size() for p in held(one.model).values())
        assert estimate.by_pool[pool].weights == loaded
    one.use("understanding")
    loaded = sum(p.numel() * p.element_size() for p in held(one.model).values())
    assert estimate_action(config, "answer", small, questions=1).by_pool["understanding"].weights == loaded
    whole = estimate_action(config, "sample", GPU("large", 10**12, 1e12, 10**12), size=SIZE, images=8)
    assert not whole.phases
    assert {phase.weights for phase in whole.by_pool.values()} == {one.bytes_of(*POOLS)}


@pytest.mark.parametrize("change", ["lacks", "other shape", "unknown"])
def test_what_is_not_loaded_must_be_there_too(run: RunDir, change: str, tmp_path: Path) -> None:
    """A checkpoint of another model is refused though the pool that differs is not asked for."""
    weights, name = load_weights(last_checkpoint(run), ema=True), "decoder.blocks.1.pools.pixel.experts.down"
    tensor = weights.pop(name)
    if change != "lacks":
        weights[name if change == "other shape" else "decoder.blocks.9.pools.pixel.experts.down"] = tensor[:2].clone()
        if change == "unknown":
            weights[name] = tensor
    CheckpointWriter().save(tmp_path, STEP, {"weights": weights, "ema": weights}, {})
    config = from_dict(run.config())
    message = "lacks decoder.blocks.1.pools.pixel.experts.down" if change == "lacks" else r"down \[2, .*no such tensor"
    with pytest.raises(UserError, match=message):
        load_model(config, tmp_path / f"step-{STEP:06d}", config.model.decoder.vocab_size, CPU, ("understanding",))


def test_a_device_holds_what_is_free_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    assert fits_whole(100, torch.device("cuda"))
    assert not fits_whole(101, torch.device("cuda"))
    assert fits_whole(1 << 60, CPU)


# Questions


def test_answers_are_the_whole_model_s_to_the_bit(run: RunDir, read: list[str]) -> None:
    config = from_dict(run.config())
    alone = load_rf_vlm(run, CPU)
    assert read
    assert {owner(name) for name in read} == {None, "understanding"}
    model = load_model(config, last_checkpoint(run), config.model.decoder.vocab_size, CPU)
    whole = RFVisionLanguageModel(model, alone._reader, alone.revision, alone.step)
    batch = [parts for parts, _ in BATCH]
    assert alone.answer(batch, MOST) == whole.answer(batch, MOST)
    assert alone.choice_probabilities(batch, CHOICES) == whole.choice_probabilities(batch, CHOICES)
    assert alone.settings == whole.settings


# Images


def pixels(folder: ImageFolder) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(Image.open(folder.image_path(one.prompt_id, one.sample))) for one in folder.entries()])


def draw(run: RunDir, out: Path, **options: Any) -> ImageFolder:
    return sample_prompts(run, PROMPTS, 2, out, device="cpu", size=SIZE, batch_size=3, **options)


@pytest.fixture(scope="module")
def whole(run: RunDir, root: Path) -> ImageFolder:
    return draw(run, root / "whole")


@pytest.fixture(scope="module")
def phased(run: RunDir, root: Path) -> ImageFolder:
    return draw(run, root / "phased", phases=True)


@pytest.mark.parametrize("variant", ["pixel", "pixel_rf", "continuous"])
def test_images_in_phases_are_the_whole_model_s(variant: str, run: RunDir, root: Path) -> None:
    """Up to a level of 255 in single values. Features are guided little: tests/sample/test_phases.py says why."""
    changes = tiny_changes(root / "tokenizer") | EXPERTS
    if variant == "continuous":
        changes["sampling.cfg_representation"] = 1.1
    one = run if variant == "pixel_rf" else write_run(root / "runs", variant, changes, seed=3)
    found, expected = (pixels(draw(one, root / f"{variant}-{phases}", phases=phases)) for phases in (True, False))
    assert found.std() > 20
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < (1e-2 if variant == "continuous" else 1e-3)


def test_phases_are_chosen_where_the_whole_does_not_fit(
    run: RunDir, whole: ImageFolder, phased: ImageFolder, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sampling, "fits_whole", lambda needed, device: asked.append(needed))  # None: no
    images = draw(run, tmp_path / "chosen")
    assert images.entries() == phased.entries()
    owners = [owner(name) for name in read]
    assert [pool for pool in dict.fromkeys(owners) if pool] == [*POOLS]
    assert len(read) == len(set(read))  # one group: each pool once, what is shared once
    weights = pooled(run).bytes_of(*POOLS)
    assert weights < asked[0] < weights + 10**8  # and room to work
    monkeypatch.undo()
    assert draw(run, tmp_path / "not").entries() == whole.entries()


def test_lost_images_are_made_again_in_phases_and_others_are_kept(run: RunDir, phased: ImageFolder, root: Path) -> None:
    folder = root / "lost"
    shutil.copytree(phased.path, folder)
    lost = ImageFolder(folder)
    for place in ((0, 1), (4, 0)):
        lost.image_path(*place).unlink()
    lost.manifest_path.unlink()
    assert draw(run, folder, phases=True).entries() == phased.entries()


def draw_killed(run: Path, out: Path) -> None:
    draw(RunDir(run), out, phases=True)


@pytest.mark.slow
def test_killed_in_phases_it_resumes_to_the_same_bytes(run: RunDir, phased: ImageFolder, root: Path) -> None:
    out = root / "killed"
    kill_at(str(out / "*.png"), 5, draw_killed, run.path, out)
    assert len(list(out.rglob("[!.]*.png"))) == 4
    assert draw(run, out, phases=True).entries() == phased.entries()


def draw_share(ranks: Any, run: Path, out: Path) -> bool:
    return draw(RunDir(run), out, phases=True, shard=(ranks.rank, ranks.size)).is_complete()


@pytest.mark.dist
def test_two_processes_with_a_share_each_make_the_folder_of_one(
    run: RunDir, phased: ImageFolder, root: Path, tmp_path: Path
) -> None:
    """As `--shard 1/2` and `--shard 2/2` do on the GPUs of a node."""
    done = Group(draw_share, 2, tmp_path, run.path, root / "shared").wait()
    assert any(done)
    assert ImageFolder(root / "shared").entries() == phased.entries()
