"""Cached latents against the VAE's own: bit for bit, encoded once, however files are damaged and whoever shares the folder."""

import copy
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rf_repro.config.model_schema import VAEConfig
from rf_repro.core.errors import UserError
from rf_repro.model.latent_cache import CachedAutoencoder, weights_identity
from rf_repro.model.vae import KLAutoencoder, LatentSpace, WanAutoencoder
from tests.model.test_vae import random_vae, wan_config, wan_folder  # noqa: F401  (a fixture)


def random_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", params=["kl", "wan"])
def vae(request: pytest.FixtureRequest) -> KLAutoencoder | WanAutoencoder:
    if request.param == "kl":
        return random_vae(8, 4)
    return WanAutoencoder(wan_config(request.getfixturevalue("wan_folder") / "alone"))


@contextmanager
def counted(vae: nn.Module) -> Iterator[list[int]]:
    """Batch sizes that reach the VAE's encoder."""
    encoder: Any = vae.encoder if isinstance(vae, KLAutoencoder) else vae.vae.encoder
    seen: list[int] = []
    hook = encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        hook.remove()


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_latents_are_the_vaes_own_and_are_made_once(vae: Any, tmp_path: Path) -> None:
    cached = CachedAutoencoder(vae, tmp_path)
    assert (cached.downsample, cached.latent_channels) == (8, 4)
    batches = [random_images(2, 16, 24), random_images(1, 24, 16, 1), random_images(3, 16, 24, 2)]
    expected = [torch.cat([vae.encode(image[None]) for image in batch]) for batch in batches]
    with counted(vae) as first:
        assert all(torch.equal(cached.encode(batch), own) for batch, own in zip(batches, expected, strict=True))
    assert first == [1] * 6
    assert len(entries(tmp_path)) == 6
    again = CachedAutoencoder(copy.deepcopy(vae), tmp_path)  # as another process would
    with counted(again.vae) as second:
        for batch, own in zip(batches, expected, strict=True):
            found = again.encode(batch)
            assert torch.equal(found, own)
            assert found.dtype == torch.float32
            found += 1  # ours to change
        mixed = torch.cat([batches[2][1:2], random_images(1, 16, 24, 9), batches[0][:1]])
        assert torch.equal(again.encode(mixed)[[0, 2]], torch.stack([expected[2][1], expected[0][0]]))
    assert second == [1]
    assert torch.equal(cached.decode(expected[0]), vae.decode(expected[0]))


def test_the_space_of_latents_sees_no_difference(vae: Any, tmp_path: Path) -> None:
    images = random_images(1, 16, 32)
    plain, cached = LatentSpace(vae, 16), LatentSpace(CachedAutoencoder(vae, tmp_path), 16)
    for _ in range(2):
        assert torch.equal(cached.encode(images), plain.encode(images))
    assert not cached.encode(images.requires_grad_()).requires_grad


def test_no_images(tmp_path: Path) -> None:
    latents = CachedAutoencoder(random_vae(8, 4), tmp_path).encode(torch.zeros(0, 3, 16, 24))
    assert latents.shape == (0, 4, 2, 3)
    assert not entries(tmp_path)


def test_pixels_size_and_weights_each_make_another_entry(tmp_path: Path) -> None:
    vae = random_vae(8, 4)
    images = random_images(1, 16, 32)
    nudged, turned = images.clone(), images.view(1, 3, 32, 16)  # one bit of one pixel; the same bytes in another shape
    nudged[0, 1, 3, 4] = torch.nextafter(nudged[0, 1, 3, 4], torch.tensor(2.0))
    other, statistics = copy.deepcopy(vae), copy.deepcopy(vae)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    statistics.latent_mean[0] += 1e-3
    half = copy.deepcopy(vae).to(torch.bfloat16)
    assert len({weights_identity(one) for one in (vae, other, statistics, half)}) == 4
    assert weights_identity(copy.deepcopy(vae)) == weights_identity(vae)
    for one, picture in [(vae, images), (vae, nudged), (vae, turned), (other, images), (statistics, images), (half, images)]:
        assert torch.equal(CachedAutoencoder(one, tmp_path).encode(picture), one.encode(picture))
    assert len(entries(tmp_path)) == 6


def test_wans_identity_includes_its_normalisation(wan_folder: Path) -> None:  # noqa: F811
    vae = WanAutoencoder(wan_config(wan_folder / "alone"))
    before = weights_identity(vae)
    vae.std[0] *= 2
    assert weights_identity(vae) != before


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "header", "longer", "displaced"])
def test_a_damaged_entry_is_made_again(damage: str, tmp_path: Path) -> None:
    vae, images = random_vae(8, 4), random_images(2, 16, 16)
    cached = CachedAutoencoder(vae, tmp_path)
    expected = cached.encode(images)
    before = {path: path.read_bytes() for path in entries(tmp_path)}
    path, other = before
    content = bytearray(before[path])
    if damage == "truncated":
        content = content[:-5]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped":
        content[-1] ^= 1
    elif damage == "header":
        content[0] ^= 128
    elif damage == "longer":
        content += b"1234"
    else:
        content = bytearray(before[other])
    path.write_bytes(content)
    with counted(vae) as seen:
        assert torch.equal(cached.encode(images), expected)
        assert torch.equal(cached.encode(images), expected)
    assert seen == [1]
    assert {path: path.read_bytes() for path in entries(tmp_path)} == before


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cached = CachedAutoencoder(random_vae(8, 4), tmp_path / "file")
    with pytest.raises(UserError, match=r"file.*: cannot (read|write) \(") as error:
        cached.encode(random_images(1, 16, 16))
    assert "\n" not in str(error.value)


def _encode_all(folder: Path, first: int, start: Any, results: Any) -> None:
    torch.set_num_threads(1)
    vae = KLAutoencoder(VAEConfig(downsample=8, latent_channels=4, width=8))
    vae.initialise(0)
    cached = CachedAutoencoder(vae, folder)
    images = random_images(24, 16, 16).roll(first, 0)  # each begins elsewhere
    start.wait()
    results.put(cached.encode(images).roll(-first, 0).numpy())


@pytest.mark.dist
def test_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_encode_all, args=(tmp_path, first, start, results)) for first in (0, 1)]
    for worker in workers:
        worker.start()
    found = [torch.from_numpy(results.get(timeout=600)) for _ in workers]
    for worker in workers:
        worker.join()
    vae = KLAutoencoder(VAEConfig(downsample=8, latent_channels=4, width=8))
    vae.initialise(0)
    expected = torch.cat([vae.encode(image[None]) for image in random_images(24, 16, 16)])
    assert all(torch.equal(one, expected) for one in found)
    assert len(entries(tmp_path)) == 24  # and no temporary file is left
