"""`rf-repro sample`: from a trained run and prompts to a folder of images in GenEval's layout.

An image depends on (sampling seed, prompt id, sample index), and in its last bits on the batch it is made in. Batches follow
from the request alone, so killing and resuming, or sharing the work between processes, gives the same bytes.

B images of a batch, T tokens of a caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rf_repro.compute.arithmetic import DTYPES, arithmetic
from rf_repro.compute.devices import on_device, resolve_device, trying
from rf_repro.compute.sharding import fill, materialise, on_meta
from rf_repro.config.overrides import from_dict
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.geneval_names import table_size
from rf_repro.core.hashing import content_hash, derive_seed, file_sha256
from rf_repro.core.image_folder import ImageFolder, Origin, SampleEntry
from rf_repro.core.run_dir import RunDir
from rf_repro.data.packing import Size, TextTokens, to_pixels
from rf_repro.data.scenes.tokenizer import SceneTokenizer
from rf_repro.experiment.run import image_space, last_checkpoint
from rf_repro.model.rf_model import RFModel
from rf_repro.sample.sampler import Sampler
from rf_repro.train.checkpoint import step_of, stream_weights
from rf_repro.worlds.scenes.evaluation import Request

TOKENS_AT_ONCE = 1 << 16  # of a batch, without its unconditional half: at 1024 px and patches of 16, 12 images

Prompt = str | dict[str, Any]  # a text of one's own, or an object of GenEval metadata
Progress = Callable[[int, int], None]  # (images made, images in all)


@dataclass(frozen=True)
class Captions:
    """The prompts as the model reads them: ids int64 [T] each, what stands for no text, and rows of the embedding table."""

    ids: list[Tensor]
    tokens: TextTokens
    vocab_size: int


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
) -> ImageFolder:
    """Images from a run's last checkpoint (averaged weights). Batches that are in the folder already are kept.

    Args:
        num_samples: images of each prompt.
        size: (H, W) in pixels; None: `default_size`.
        shard: (index, count) of the share of the batches to make here. Whoever makes the last image completes the folder.
        batch_size: images at once; None: the config's, and at most `TOKENS_AT_ONCE` tokens.

    Raises:
        UserError: no checkpoint, no generation pathway, a size the model does not draw, a prompt it cannot read whole, or a
            folder with other content.
    """
    config = from_dict(run.config())
    size = check_size(config, size)
    resolve_device(device)
    rows = [free_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    captions = read_captions(config, [row["prompt"] for row in rows])  # what cannot be read is refused before anything is written
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

    def draw(on: torch.device) -> None:
        missing = [batch for batch in batches if not all(_exists(folder, wanted[i]) for i in batch)]
        done = total - sum(map(len, missing))
        progress(done, total)
        if not missing:
            return
        for i, row in enumerate(rows):
            folder.write_prompt(i, row)
        with trying(on):
            sampler = _load_sampler(config, run, checkpoint, captions, on)
        for batch in missing:
            ids = torch.stack([captions.ids[wanted[i].prompt_id] for i in batch])
            with trying(on):
                images, _ = sampler.sample(ids, [wanted[i].seed for i in batch], size=size)
            for i, pixels in zip(batch, to_pixels(images).cpu().numpy(), strict=True):
                folder.write_image(wanted[i].prompt_id, wanted[i].sample, wanted[i].seed, Image.fromarray(pixels))
            done += len(batch)
            progress(done, total)

    on_device(device, draw, config.parallel.sharding == "none")
    if not folder.is_complete() and all(_exists(folder, r) for r in wanted):  # no other share is missing
        entries = [SampleEntry(r.prompt_id, r.sample, r.seed, file_sha256(_path(folder, r))) for r in wanted]
        folder.finish(entries, expected=len(wanted))
    return folder


def free_prompt(text: str) -> dict[str, Any]:
    """Metadata of a prompt that no detector knows what to look for in."""
    return {"tag": "free", "include": [], "prompt": text}


def default_size(config: ExperimentConfig) -> Size:
    """(H, W): the scenes' own, else that of the paper's ablations, or the largest that the model draws."""
    side = config.max_image_size if config.data.world == "scenes" else table_size(config.max_image_size)
    return (side, side)


def check_size(config: ExperimentConfig, size: Size | None) -> Size:
    """The size to draw. Raises UserError where the run draws no images, or none of this size."""
    if config.model.pixel.space == "none":
        raise UserError("model.pixel.space=none: a VLM-only run draws no images; sample another variant")
    if size is None:
        return default_size(config)
    stride, largest = config.image_stride, config.max_image_size
    if config.data.world == "scenes" and size != (largest, largest):
        raise UserError(f"--size {size[0]}x{size[1]}: images of this run's scenes are {largest}x{largest}; leave --size out")
    if any(side < 1 or side % stride or side > largest for side in size):
        raise UserError(
            f"--size {size[0]}x{size[1]}: both sides must be multiples of {stride} pixels, at most {largest}, for this run"
        )
    return size


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


def read_captions(config: ExperimentConfig, texts: Sequence[str]) -> Captions:
    """Raises UserError when a text is empty, too long, or has words that the world lacks."""
    limit = config.data.caption_tokens
    if config.data.world == "scenes":
        scenes = SceneTokenizer(config.data.scenes)
        ids = list(torch.from_numpy(scenes.encode(texts, limit)))
        return Captions(ids, TextTokens(scenes.pad_id, scenes.bos_id, scenes.null_id), scenes.vocab_size)
    from rf_repro.data.text_tokenizer import ImageTextTokenizer

    words = ImageTextTokenizer.from_config(config)
    ids = []
    for text in texts:
        if not text.strip():
            raise UserError(f"--prompt {text!r}: must say what to draw")
        whole = words.caption(text, len(text.encode()) + 4)  # no text has more tokens than bytes
        if len(whole) > limit:
            raise UserError(
                f"prompt {text[:40]!r}: has {len(whole)} tokens, more than data.caption_tokens={limit} of this run; shorten it"
            )
        ids.append(torch.from_numpy(whole))
    return Captions(ids, TextTokens(words.pad_id, words.bos_id, words.null_id), words.vocab_size)


def load_model(config: ExperimentConfig, checkpoint: Path, vocab_size: int, device: torch.device) -> RFModel:
    """The averaged weights of a checkpoint of either kind, in the device's arithmetic; never held twice.

    Raises:
        UserError: the checkpoint is damaged or of another model.
    """
    with on_meta():
        model = RFModel(config, vocab_size)
    model.to(DTYPES[arithmetic(config.optim.precision, device)])
    materialise(model, device)
    lacking = set(model.state_dict()) - fill(model, stream_weights(checkpoint, ema=True))
    if lacking:
        raise UserError(f"{checkpoint}: lacks {min(lacking)} and {len(lacking) - 1} others; it belongs to another model")
    return model.eval().requires_grad_(False)


def _load_sampler(config: ExperimentConfig, run: RunDir, checkpoint: Path, captions: Captions, device: torch.device) -> Sampler:
    model = load_model(config, checkpoint, captions.vocab_size, device)
    root = run.path.parents[1]  # of the runs of this scale
    shared = {name.split("/")[0]: RunDir(root / name) for name in run.record().started_from}
    return Sampler(model, image_space(config, shared, device), config.sampling, captions.tokens)


def _path(folder: ImageFolder, request: Request) -> Path:
    return folder.image_path(request.prompt_id, request.sample)


def _exists(folder: ImageFolder, request: Request) -> bool:
    return _path(folder, request).exists()
