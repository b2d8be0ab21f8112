"""Images of a run: those of its own sampler, whatever was asked for with them, whoever made them, and however often killed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rf_repro.cli import main
from rf_repro.compute.ranks import Ranks
from rf_repro.config.overrides import from_dict
from rf_repro.core.errors import UserError
from rf_repro.core.geneval_names import geneval_name, is_sized, table_size
from rf_repro.core.hashing import derive_seed
from rf_repro.core.image_folder import ImageFolder
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import TextTokens, to_pixels
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.experiment.load import last_checkpoint
from rf_repro.experiment.sampling import TOKENS_AT_ONCE, image_tokens, make_batches, sample_prompts
from rf_repro.model.rf_model import RFModel
from rf_repro.model.space import PixelSpace
from rf_repro.sample.sampler import Sampler
from rf_repro.train.checkpoint import load_weights
from rf_repro.train.checkpoint_writer import CheckpointWriter
from tests.killing import kill_at
from tests.tiny_run import STEP, tiny_changes, write_run
from tests.train.processes import run_ranks

PROMPTS = ["a photo of a dog", "a photo of two red circles above a blue square", "a photo of a cat", "dogs", "a photo of a cup"]
SIZE = (48, 96)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sampling")


@pytest.fixture(scope="module")
def run(root: Path) -> RunDir:
    return write_run(root / "runs", "pixel_rf-continued", tiny_changes(root / "tokenizer"))


@pytest.fixture(scope="module")
def sampled(run: RunDir, root: Path) -> ImageFolder:
    return sample_prompts(run, PROMPTS, 2, root / "sampled", device="cpu", size=SIZE, batch_size=3)


def pixels(folder: ImageFolder) -> dict[tuple[int, int], np.ndarray]:
    """(prompt id, sample) -> uint8 [H, W, 3]."""
    return {
        (one.prompt_id, one.sample): np.asarray(Image.open(folder.image_path(one.prompt_id, one.sample)))
        for one in folder.entries()
    }


def test_images_are_the_samplers_own_with_averaged_weights(run: RunDir, tmp_path: Path) -> None:
    """The model built the plain way: on the CPU, its averages loaded strictly, one caption at a time."""
    config = from_dict(run.config())
    model = RFModel(config, config.model.decoder.vocab_size)
    model.load_state_dict(load_weights(last_checkpoint(run), ema=True))
    words = ImageTextTokenizer.from_config(config)
    tokens = TextTokens(words.pad_id, words.bos_id, words.null_id)
    sampler = Sampler(model.eval(), PixelSpace(config.model.pixel.patch_size), config.sampling, tokens)
    folder = sample_prompts(run, PROMPTS[:2], 2, tmp_path / "one", seed=5, device="cpu", size=SIZE, batch_size=1)
    for (prompt, sample), image in pixels(folder).items():
        ids = torch.from_numpy(words.caption(PROMPTS[prompt], 1000))[None]
        made, _ = sampler.sample(ids, [derive_seed("sample", 5, prompt, sample)], size=SIZE)
        assert image.shape == (*SIZE, 3)
        assert np.array_equal(image, to_pixels(made)[0].numpy())
        assert image.std() > 20  # not one colour
    origin = folder.origin()
    assert origin is not None
    assert (origin.step, origin.weights, origin.height, origin.width, origin.seed) == (STEP, "ema", *SIZE, 5)
    assert (origin.variant, origin.config_hash) == ("pixel_rf-continued", run.record().config_hash)
    assert dict(folder.prompts())[1] == {"tag": "free", "include": [], "prompt": PROMPTS[1]}


def test_a_batch_changes_the_last_bits_of_an_image_at_most(run: RunDir, sampled: ImageFolder, root: Path) -> None:
    """Float sums in another order: single values off by one level of 255."""
    alone = sample_prompts(run, PROMPTS, 2, root / "alone", device="cpu", size=SIZE, batch_size=1)
    for key, image in pixels(alone).items():
        difference = np.abs(image.astype(int) - pixels(sampled)[key])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
    with pytest.raises(UserError, match="it holds images of batch size 1, not 2; name a new folder"):
        sample_prompts(run, PROMPTS, 2, root / "alone", device="cpu", size=SIZE, batch_size=2)


def test_batches_are_of_one_length_and_within_the_bounds() -> None:
    tokens = [int(n) for n in np.random.default_rng(0).integers(5, 9, 60)] + [100]
    for most, bound in ((7, None), (7, 40), (1, 40), (100, 16)):
        batches = make_batches(tokens, most, bound)
        assert sorted(i for batch in batches for i in batch) == list(range(61))
        for batch in batches:
            assert batch == sorted(batch)
            assert len({tokens[i] for i in batch}) == 1
            assert len(batch) <= most
            assert len(batch) == 1 or bound is None or sum(tokens[i] for i in batch) <= bound
        assert len(batches) >= len(set(tokens))
    assert make_batches([3, 2, 3, 3], 2, None) == [[1], [0, 2], [3]]


def test_large_images_are_made_few_at_a_time(run: RunDir) -> None:
    config = from_dict(run.config())
    assert image_tokens(config, SIZE) == RFModel(config, 480).generation_layout(9, size=SIZE).length - 9
    assert TOKENS_AT_ONCE // (60 + 1 + 1024 + 4096) == 12  # at 1024 px, as the docstring says


def test_shares_make_the_same_folder_together(run: RunDir, sampled: ImageFolder, root: Path) -> None:
    for index in (2, 0, 1):
        shared = sample_prompts(
            run, PROMPTS, 2, root / "shared", device="cpu", size=SIZE, batch_size=3, shard=(index, 3)
        )  # fmt: skip
        assert shared.is_complete() == (index == 1)
    assert shared.entries() == sampled.entries()


def test_lost_images_are_made_again_bit_by_bit_and_others_are_kept(run: RunDir, sampled: ImageFolder, root: Path) -> None:
    before = sampled.entries()
    kept = sampled.image_path(1, 0)
    seen = kept.stat().st_mtime_ns
    sampled.image_path(0, 1).unlink()
    sampled.image_path(4, 0).unlink()
    sampled.manifest_path.unlink()
    counts: list[tuple[int, int]] = []
    sample_prompts(
        run, PROMPTS, 2, root / "sampled", device="cpu", size=SIZE, batch_size=3, progress=lambda *two: counts.append(two)
    )
    assert sampled.entries() == before
    assert kept.stat().st_mtime_ns == seen
    assert counts[0][0] > 0
    assert counts[-1] == (10, 10)


@pytest.mark.slow
def test_killed_while_it_draws_it_resumes_to_the_same_bytes(run: RunDir, sampled: ImageFolder, root: Path) -> None:
    out = root / "killed"
    options = [text for prompt in PROMPTS for text in ("--prompt", prompt)]
    command = ["sample", str(run.path), *options, "--num", "2", "--out", str(out), "--size", "48x96", "--batch-size", "3",
               "--device", "cpu"]  # fmt: skip
    kill_at(str(out / "*.png"), 5, main, command)
    assert len(list(out.rglob("[!.]*.png"))) == 4
    done = sample_prompts(run, PROMPTS, 2, out, device="cpu", size=SIZE, batch_size=3)
    assert done.entries() == sampled.entries()
    assert not [name for _, _, names in os.walk(out) for name in names if name.endswith(".png") and name.startswith(".")]


def save_in_parts(ranks: Ranks, source: Path, folder: Path) -> None:
    """Writes the averages of a checkpoint again, as ranks do that each hold rows of them."""
    mesh = init_device_mesh("cpu", (ranks.size,))
    parts = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in load_weights(source, ema=True).items()}
    writer = CheckpointWriter(ranks)
    writer.save(folder, STEP, {"weights": parts, "ema": parts, "optimizer": {"x": torch.zeros(1)}}, {})
    writer.wait()


@pytest.mark.dist
def test_a_checkpoint_of_sharded_training_gives_the_same_images(run: RunDir, root: Path, tmp_path: Path) -> None:
    other = RunDir(root / "sharded" / "base" / "pixel_rf" / run.path.name)
    shutil.copytree(run.path, other.path, ignore=shutil.ignore_patterns("checkpoints"))
    run_ranks(save_in_parts, 2, tmp_path, last_checkpoint(run), other.checkpoints)
    assert len(list(last_checkpoint(other).glob("ema-*.safetensors"))) == 2
    plain, sharded = (
        sample_prompts(one, PROMPTS[:2], 1, root / name, device="cpu", size=SIZE)
        for one, name in ((run, "from-plain"), (other, "from-sharded"))
    )
    assert sharded.entries() == plain.entries()


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(run: RunDir, root: Path, tmp_path: Path) -> None:
    for size, message in (
        ((50, 96), "--size 50x96: both sides must be multiples of 16 pixels, at most 96"),
        ((96, 112), "--size 96x112: both sides must be multiples of 16 pixels, at most 96"),
        ((0, 16), "--size 0x16"),
    ):
        with pytest.raises(UserError, match=message):
            sample_prompts(run, PROMPTS, 1, tmp_path / "out", device="cpu", size=size)
    with pytest.raises(UserError, match=r"has \d+ tokens, more than data.caption_tokens=40 of this run"):
        sample_prompts(run, ["zq " * 30], 1, tmp_path / "out", device="cpu")
    with pytest.raises(UserError, match="must say what to draw"):
        sample_prompts(run, [" "], 1, tmp_path / "out", device="cpu")
    vlm = write_run(root / "runs", "vlm_only", tiny_changes(root / "tokenizer"))
    with pytest.raises(UserError, match="a VLM-only run draws no images"):
        sample_prompts(vlm, PROMPTS, 1, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_images_of_one_origin(run: RunDir, sampled: ImageFolder, root: Path, tmp_path: Path) -> None:
    other = write_run(root / "runs", "pixel_rf-continued", tiny_changes(root / "tokenizer"), seed=1)
    for one, prompts, seed, size, message in (
        (other, PROMPTS, 0, SIZE, "it holds images of run seed 0, not 1"),
        (run, PROMPTS, 1, SIZE, "it holds images of seed 0, not 1"),
        (run, PROMPTS, 0, (96, 48), "it holds images of height 48, not 96"),
        (run, PROMPTS[:2], 0, SIZE, "it holds images of prompts"),
    ):
        with pytest.raises(UserError, match=message):
            sample_prompts(one, prompts, 2, sampled.path, seed=seed, device="cpu", size=size, batch_size=3)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        sample_prompts(run, PROMPTS, 2, tmp_path, device="cpu")


def test_results_are_named_by_size_and_prompt_set() -> None:
    """Table 3 is read at 256 px, or at the largest size there is; Table 1 at the largest, with both prompt sets."""
    assert (table_size(1024), table_size(96)) == (256, 96)
    names = {
        (256, 256, 1024, "official"): "geneval",
        (96, 96, 96, "custom-01234567"): "geneval",
        (96, 96, 1024, "official"): "geneval-96",
        (1024, 1024, 1024, "official"): "geneval-1024",
        (1024, 1024, 1024, "bagel-long"): "geneval-1024-bagel-long",
        (256, 256, 1024, "bagel-long"): "geneval-bagel-long",
        (768, 1024, 1024, "official"): "geneval-768x1024",
    }
    assert {given: geneval_name(*given) for given in names} == names
    assert {name for name in names.values() if not is_sized(name)} == {"geneval"}
    assert not any(map(is_sized, ("geneval-step000030", "geneval-ground-truth", "questions", "geneval-mismatched")))
