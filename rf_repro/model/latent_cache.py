"""Latents of images on disk, so that a frozen VAE encodes each image once however often training sees it.

Entries are float32, as the VAE gives them: half the bytes in float16 or bfloat16 would make a cached run another one than an
uncached run (they keep 11 and 8 bits of a latent's 24), and a cache that warms up while training would change the targets on the
way. Wan's latents of an image of 1024 x 1024 pixels take 1 MiB, of 256 x 256 64 KiB.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path
from rf_repro.model.vae import KLAutoencoder, WanAutoencoder

DIGEST_BYTES = 32  # SHA-256


class CachedAutoencoder:
    """An `Autoencoder` whose `encode` looks latents up in a folder and adds those that are not there.

    Images are encoded one at a time, so that what an entry holds depends on its image alone: not on the batch that happened to
    be the first to show it, and not on which of the batch's other images were cached. It is bit for bit what `vae.encode` gives
    for that image, on the same kind of device.

    An entry's name is SHA-256 of the VAE's weights, the image's size and its pixels. Its content starts with SHA-256 of its
    name and latents, so that a damaged or displaced file is seen, and made again. Files are written whole and renamed, so any
    number of processes and runs may share a folder; two that encode the same image write the same bytes.

    Args:
        vae: frozen from here on; in its final precision, which is part of its identity.
        folder: made when the first entry is written.
    """

    def __init__(self, vae: KLAutoencoder | WanAutoencoder, folder: Path) -> None:
        self.vae, self.folder, self.identity = vae, Path(folder), weights_identity(vae)
        self.downsample, self.latent_channels = vae.downsample, vae.latent_channels

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] in [-1, 1] -> float32 [B, C, H/f, W/f], without gradients.

        Raises:
            UserError: the folder cannot be read or written.
        """
        latents = [self._one(image) for image in images]
        height, width = (side // self.downsample for side in images.shape[2:])
        return torch.stack(latents) if latents else images.new_zeros(0, self.latent_channels, height, width)

    def decode(self, latents: Tensor) -> Tensor:
        """The VAE's own: float32 [B, C, h, w] -> float32 [B, 3, h*f, w*f]."""
        return self.vae.decode(latents)

    def _one(self, image: Tensor) -> Tensor:
        """float32 [3, H, W] -> float32 [C, H/f, W/f]."""
        shape = (self.latent_channels, *(side // self.downsample for side in image.shape[1:]))
        key = self._key(image)
        path = self.folder / key[:2] / f"{key}.latents"
        known = _read(path, key, shape)
        if known is not None:
            return known.to(image.device)
        latents = self.vae.encode(image[None])[0]
        payload = _bytes(latents)
        with atomic_path(path, durable=False) as temporary:
            temporary.write_bytes(_digest(key, payload) + payload)
        return latents

    def _key(self, image: Tensor) -> str:
        digest = hashlib.sha256(f"{self.identity} {tuple(image.shape)}".encode())
        digest.update(_bytes(image))
        return digest.hexdigest()


def weights_identity(module: nn.Module) -> str:
    """SHA-256 over a module's class and the names, types, shapes and contents of all its parameters and buffers."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, key: str, shape: tuple[int, ...]) -> Tensor | None:
    """An entry's latents on the CPU; None where there is none, or its content is not what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{path}: cannot read ({error.strerror}); mend the folder or choose another with model.vae.latent_cache"
        ) from None
    stored, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if stored != _digest(key, payload) or len(payload) != 4 * int(np.prod(shape)):
        return None
    return torch.frombuffer(bytearray(payload), dtype=torch.float32).view(shape)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().float().cpu().contiguous().numpy().tobytes()


def _digest(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest()
