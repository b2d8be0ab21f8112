"""`rf-repro sample`: from a trained run and prompts to a folder of images in GenEval's layout.

An image depends on (sampling seed, prompt id, sample index), and in its last bits on the batch it is made in. Batches follow
from the request alone, so killing and resuming, or sharing the work between processes, gives the same bytes. A model that does
not fit its device whole is loaded pool by pool (rf_repro.sample.phases), which changes an image in its last bits too.

B images of a batch, T tokens of a caption.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rf_repro.compute.arithmetic import DTYPES, arithmetic
from rf_repro.compute.devices import on_device, resolve_device, trying
from rf_repro.config.overrides import config_of
from rf_repro.config.prerequisites import shared_runs
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash, derive_seed, file_sha256
from rf_repro.core.image_folder import ImageFolder, Origin, SampleEntry
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import Size, to_pixels
from rf_repro.experiment.load import PooledModel, fits_whole, image_space, last_checkpoint
from rf_repro.experiment.run import by_kind
from rf_repro.model.layout import POOLS
from rf_repro.model.spaces import space_of
from rf_repro.sample.footprint import FP32, peak, sampling_bytes, tokens_of
from rf_repro.sample.phases import PhasedSampler
from rf_repro.sample.prompts import Captions
from rf_repro.sample.requests import Batch, Request
from rf_repro.sample.sampler import Sampler
from rf_repro.train.checkpoint import step_of
from rf_repro.worlds import world_of

TOKENS_AT_ONCE = 1 << 16  # of a batch, without its unconditional half: at 1024 px and patches of 16, 12 images

Prompt = str | dict[str, Any]  # a text of one's own, or an object of GenEval metadata
Progress = Callable[[int, int], None]  # (images made, images in all)


def sample_prompts(
    run: RunDir,
    prompts: Sequence[Prompt],
    num_samples: int,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = lambda done, total: None,
    *,
    size: Size | None = None,
    shard: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    phases: bool | None = None,
) -> ImageFolder:
    """Images from a run's last checkpoint (averaged weights). Batches that are in the folder already are kept.

    Args:
        num_samples: images of each prompt.
        size: (H, W) in pixels; None: the world's usual one.
        shard: (index, count) of the share of the batches to make here. Whoever makes the last image completes the folder.
        batch_size: images at once; None: the config's, and at most `TOKENS_AT_ONCE` tokens.
        phases: whether one pool is on the device at a time; None: where the whole model does not fit.

    Raises:
        UserError: no checkpoint, no generation pathway, a size the model does not draw, a prompt it cannot read whole, or a
            folder with other content.
    """
    config = config_of(run)
    size = check_size(config, size)
    resolve_device(device)
    rows = [free_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    texts = [row["prompt"] for row in rows]
    captions = world_of(config).captions(config, texts)  # what cannot be read is refused before anything is written
    checkpoint, record = last_checkpoint(run), run.record()
    most = batch_size or config.sampling.batch_size
    folder = ImageFolder(out)
    folder.begin(
        Origin(
            record.scale, record.variant, record.seed, record.config_hash, step_of(checkpoint), "ema", *size, seed, num_samples,
            content_hash(rows), most,
        )
    )  # fmt: skip
    wanted = [Request(i, k, row, derive_seed("sample", seed, i, k)) for i, row in enumerate(rows) for k in range(num_samples)]
    tokens = [image_tokens(config, size) + len(captions.ids[r.prompt_id]) for r in wanted]
    # A batch size that was asked for is meant; the config's is for images of the scenes' size.
    batches = make_batches(tokens, most, None if batch_size else TOKENS_AT_ONCE)[shard[0] :: shard[1]]
    total = sum(map(len, batches))

    was_complete = folder.is_complete()

    def draw(on: torch.device) -> None:
        missing = [batch for batch in batches if not all(_exists(folder, wanted[i]) for i in batch)]
        done = total - sum(map(len, missing))
        progress(done, total)
        if not missing:
            return
        for i, row in enumerate(rows):
            folder.write_prompt(i, row)
        texts = [
            Batch(torch.stack([captions.ids[wanted[i].prompt_id] for i in batch]), [wanted[i].seed for i in batch])
            for batch in missing
        ]
        with trying(on):
            sampler = _load_sampler(config, run, checkpoint, captions, on, _working_bytes(config, size, texts, on), phases)
        made = sampler.sample_all(texts, size)
        for batch in missing:
            with trying(on):
                images, _ = next(made)
            for i, pixels in zip(batch, to_pixels(images).cpu().numpy(), strict=True):
                folder.write_image(wanted[i].prompt_id, wanted[i].sample, wanted[i].seed, Image.fromarray(pixels))
            done += len(batch)
            progress(done, total)

    on_device(device, draw, config.parallel.sharding == "none")
    if not was_complete and all(_exists(folder, r) for r in wanted):  # no other share is missing
        folder.finish([_entry(folder, r) for r in wanted], expected=len(wanted))
    return folder


def free_prompt(text: str) -> dict[str, Any]:
    """Metadata of a prompt that no detector knows what to look for in."""
    return {"tag": "free", "include": [], "prompt": text}


def check_size(config: ExperimentConfig, size: Size | None) -> Size:
    """The size to draw; None: the world's usual one. Raises UserError where the run draws no images, or none of this size."""
    if not space_of(config.model).generates:
        raise UserError(f"model.pixel.space={config.model.pixel.space}: a VLM-only run draws no images; sample another variant")
    return world_of(config).check_size(config, size)


def image_tokens(config: ExperimentConfig, size: Size) -> int:
    """Representation and generation tokens of an image."""
    feature, pixel = 2 * config.model.encoder.patch_size, config.model.pixel.patch_size
    return 1 + size[0] * size[1] // feature**2 + size[0] * size[1] // pixel**2


def make_batches(tokens: Sequence[int], most: int, tokens_at_once: int | None) -> list[list[int]]:
    """Requests in batches: what is in one has the same number of tokens, shortest first, and in order within a length.

    Args:
        tokens: of each request.
        most: requests in a batch.
        tokens_at_once: tokens in a batch, unless one request has more; None: any number.
    """
    batches = []
    for length in sorted(set(tokens)):
        same = [i for i, own in enumerate(tokens) if own == length]
        size = most if tokens_at_once is None else max(1, min(most, tokens_at_once // length))
        batches += [same[first : first + size] for first in range(0, len(same), size)]
    return batches


def _working_bytes(config: ExperimentConfig, size: Size, batches: Sequence[Batch], device: torch.device) -> int:
    """What the batch that needs most has beside the model, its VAE included."""
    number_bytes = DTYPES[arithmetic(config.optim.precision, device)].itemsize
    shapes = {batch.text_ids.shape for batch in batches}
    found = (sampling_bytes(config, size, tokens_of(config, size, T), B, number_bytes, phases=False) for B, T in shapes)
    return max(map(peak, found)) + FP32 * sum(space_of(config.model).stored(config.model).values())


def _load_sampler(
    config: ExperimentConfig,
    run: RunDir,
    checkpoint: Path,
    captions: Captions,
    device: torch.device,
    working_bytes: int,
    phases: bool | None,
) -> Sampler | PhasedSampler:
    pooled = PooledModel(config, checkpoint, captions.vocab_size, device)
    if phases is None:
        phases = not fits_whole(pooled.bytes_of(*POOLS) + working_bytes, device)
    pooled.use(*(() if phases else POOLS))  # what is shared stays
    root = run.path.parents[1]  # of the runs of this scale
    started = {name.split("/")[0]: RunDir(root / name) for name in run.record().started_from}
    before = [one for one in shared_runs(config) if one.name in started]
    sampler = Sampler(pooled.model, image_space(config, by_kind(before, started), device), config.sampling, captions.tokens)
    return PhasedSampler(sampler, pooled.use) if phases else sampler


def _path(folder: ImageFolder, request: Request) -> Path:
    return folder.image_path(request.prompt_id, request.sample)


def _entry(folder: ImageFolder, request: Request) -> SampleEntry:
    return SampleEntry(request.prompt_id, request.sample, request.seed, file_sha256(_path(folder, request)))


def _exists(folder: ImageFolder, request: Request) -> bool:
    return _path(folder, request).exists()
