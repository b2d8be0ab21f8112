"""Autoencoders and the space of their latents: shapes, places, normalisation, the KL term, and Wan's VAE against diffusers."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from rf_repro.config.model_schema import ModelConfig, PixelConfig, VAEConfig
from rf_repro.core.errors import UserError
from rf_repro.model.space import PixelSpace
from rf_repro.model.spaces import space_of
from rf_repro.model.vae import KLAutoencoder, LatentSpace, WanAutoencoder, kl_divergence
from tests.model.small import largest_difference


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_vae(downsample: int = 4, channels: int = 5, seed: int = 0) -> KLAutoencoder:
    """Random weights, biases and statistics: nothing hides behind a zero or a one."""
    vae = KLAutoencoder(VAEConfig(downsample=downsample, latent_channels=channels, width=8))
    vae.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        vae.latent_mean.copy_(torch.randn(channels, generator=generator))
        vae.latent_std.copy_(torch.rand(channels, generator=generator) + 0.5)
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize("downsample", [2, 4, 8])
@pytest.mark.parametrize("size", [16, 24])
def test_shapes(downsample: int, size: int) -> None:
    vae, images = random_vae(downsample), random_images(3, size)
    mean, log_variance = vae.posterior(images)
    side = size // downsample
    assert mean.shape == log_variance.shape == (3, 5, side, side)
    assert vae.reconstruct(mean).shape == images.shape
    assert vae.encode(images).shape == mean.shape
    assert vae.decode(mean).shape == images.shape
    for dtype in (torch.float32, torch.bfloat16):  # float32 outside, whatever the weights
        vae.to(dtype)
        assert {tensor.dtype for tensor in (*vae.posterior(images), vae.reconstruct(mean))} == {torch.float32}


def test_weights_depend_on_the_seed_and_the_name_alone() -> None:
    config = VAEConfig(width=8)
    first, second, other = KLAutoencoder(config), KLAutoencoder(config), KLAutoencoder(config)
    first.initialise(3)
    torch.manual_seed(99)
    second.initialise(3)
    other.initialise(4)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name
        if name.endswith(".weight"):
            assert not torch.equal(parameter, other.get_parameter(name)), name


def test_kl_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 3, 4, 4).double() * 2, torch.randn(2, 3, 4, 4).double() * 3
    expected = torch_kl(Normal(mean, torch.exp(0.5 * log_variance)), Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    assert largest_difference(kl_divergence(mean, log_variance), expected) < 1e-9


@pytest.mark.parametrize("patch_size", [4, 8])
def test_tokens_are_normalised_means_in_raster_order(patch_size: int) -> None:
    vae, images = random_vae(), random_images(2, 24)
    tokens = LatentSpace(vae, patch_size).encode(images)
    side, cells = 24 // patch_size, patch_size // 4
    vae_config = VAEConfig(latent_channels=5)
    model = ModelConfig(pixel=PixelConfig(space="vae", patch_size=patch_size), vae=vae_config)
    assert tokens.shape == (2, side**2, space_of(model).token_dim(model))
    mean, _ = vae.posterior(images)
    for n in range(side**2):
        row, column = divmod(n, side)
        block = mean[:, :, row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
        expected = (block - vae.latent_mean.view(-1, 1, 1)) / vae.latent_std.view(-1, 1, 1)
        assert largest_difference(tokens[:, n], expected.flatten(1)) < 1e-6


@pytest.mark.parametrize("patch_size", [4, 8])
def test_a_token_covers_the_pixels_of_the_pixel_patch_of_its_number(patch_size: int) -> None:
    """With the middle tap of every 3x3 convolution alone, what a token says and draws is its own patch and nothing else."""
    vae = random_vae()
    for parameter in vae.parameters():
        if parameter.shape[2:] == (3, 3):
            parameter[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    space, pixels = LatentSpace(vae, patch_size), PixelSpace(patch_size)
    patches, tokens = pixels.encode(random_images(1, 24)), space.encode(random_images(1, 24))
    decoded = pixels.encode(space.decode(tokens))
    for n in range(patches.shape[1]):
        moved = patches.clone()
        moved[0, n] *= -1
        assert (space.encode(pixels.decode(moved)) - tokens)[0].abs().amax(1).gt(1e-3).nonzero().tolist() == [[n]]
        moved = tokens.clone()
        moved[0, n] += 1
        assert (pixels.encode(space.decode(moved)) - decoded)[0].abs().amax(1).gt(1e-3).nonzero().tolist() == [[n]]


def test_decoding_undoes_the_normalisation() -> None:
    vae, images = random_vae(), random_images(3, 24)
    space = LatentSpace(vae, 8)
    assert largest_difference(space.decode(space.encode(images)), vae.reconstruct(vae.posterior(images)[0])) < 1e-5


def test_latents_do_not_depend_on_the_batch_and_carry_no_gradient() -> None:
    vae, images = random_vae(), random_images(13, 24)
    space = LatentSpace(vae, 4)
    together = space.encode(images)
    assert torch.equal(space.encode(images), together)
    for size in (1, 2, 5):
        assert largest_difference(torch.cat([space.encode(part) for part in images.split(size)]), together) < 1e-5
    vae.requires_grad_(True)
    assert not space.encode(images.requires_grad_()).requires_grad
    assert not space.decode(together.requires_grad_()).requires_grad


# Wan 2.1's VAE

TINY_WAN: dict[str, Any] = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_scales": [],
    "temperal_downsample": [False, True, True], "latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [1.5, 0.7, 1.1, 2.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan VAE as diffusers saves it, and beside it a pipeline's folder that holds it as `vae`."""
    diffusers = pytest.importorskip("diffusers", reason="the Wan VAE needs diffusers: pip install -e '.[hub]'")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    vae = diffusers.AutoencoderKLWan(**TINY_WAN)
    vae.save_pretrained(folder / "alone")
    vae.save_pretrained(folder / "pipeline" / "vae")
    return folder


def wan_config(folder: Path, **changes: Any) -> VAEConfig:
    return VAEConfig(**{"kind": "wan", "pretrained": str(folder), "downsample": 8, "latent_channels": 4, **changes})


@pytest.mark.parametrize("name", ["alone", "pipeline"])
def test_wan_equals_diffusers_own_calls(name: str, wan_folder: Path) -> None:
    from diffusers import AutoencoderKLWan

    oracle = AutoencoderKLWan.from_pretrained(wan_folder / "alone").eval()
    images = random_images(2, 32)
    mean, std = (torch.tensor(TINY_WAN[key]).view(1, 4, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    with torch.no_grad():
        latents = (oracle.encode(images.unsqueeze(2)).latent_dist.mean - mean) / std
        decoded = oracle.decode(latents * std + mean).sample
    assert latents.shape == (2, 4, 1, 4, 4)
    vae = WanAutoencoder(wan_config(wan_folder / name))
    assert largest_difference(vae.encode(images), latents.squeeze(2)) < 1e-5
    assert largest_difference(vae.decode(latents.squeeze(2)), decoded.squeeze(2)) < 1e-5
    space = LatentSpace(vae, 16)
    tokens = space.encode(images)
    assert tokens.shape == (2, 4, 16)
    assert largest_difference(tokens[:, 1], latents[:, :, 0, 0:2, 2:4].flatten(1)) < 1e-5
    assert largest_difference(space.decode(tokens), decoded.squeeze(2)) < 1e-4
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_wan_takes_images_of_any_shape(wan_folder: Path) -> None:
    from diffusers import AutoencoderKLWan

    oracle, vae = AutoencoderKLWan.from_pretrained(wan_folder / "alone").eval(), WanAutoencoder(wan_config(wan_folder / "alone"))
    mean, std = (torch.tensor(TINY_WAN[key]).view(1, 4, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    for height, width in [(16, 40), (64, 8)]:
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1
        with torch.no_grad():
            latents = (oracle.encode(images.unsqueeze(2)).latent_dist.mean - mean) / std
            decoded = oracle.decode(latents * std + mean).sample
        assert vae.encode(images).shape == (2, 4, height // 8, width // 8)
        assert largest_difference(vae.encode(images), latents.squeeze(2)) < 1e-5
        assert largest_difference(vae.decode(latents.squeeze(2)), decoded.squeeze(2)) < 1e-5
        assert decoded.squeeze(2).shape == images.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 16}, r"downsample=8, latent_channels=16: must be 8 and 4"),
        ({"downsample": 4}, r"downsample=4, latent_channels=4: must be 8 and 4"),
        ({"pretrained": ""}, r"model.vae.pretrained='': must be a folder or hub id"),
    ],
)
def test_a_wan_vae_other_than_configured_is_refused(changes: dict[str, Any], message: str, wan_folder: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        WanAutoencoder(wan_config(wan_folder / "alone", **changes))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_wan_vae_is_named(wan_folder: Path) -> None:
    folder = wan_folder / "empty" / "vae"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", **TINY_WAN}))  # weights are missing
    with pytest.raises(UserError, match=rf"model.vae.pretrained='{folder}': has no .safetensors; give") as error:
        WanAutoencoder(wan_config(folder))
    assert "\n" not in str(error.value)


def test_without_diffusers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # what an import then finds is as if it were not installed
    with pytest.raises(UserError, match=r"needs diffusers .*pip install -e '\.\[hub\]'"):
        WanAutoencoder(wan_config(tmp_path))
