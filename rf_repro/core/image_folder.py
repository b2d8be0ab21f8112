"""Samples on disk in GenEval's official layout, with a manifest that says what should be there.

`DIR/00000/metadata.jsonl` holds one JSON object, `DIR/00000/samples/0000.png` and on its images; `DIR/manifest.json`
is written last, so its existence means that the folder is complete. Where `rf-repro sample` makes the folder, `DIR/origin.json`
is written first: a folder is only ever completed with the images it was begun with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, read_json, read_object, write_json, write_text
from rf_repro.core.hashing import canonical_json, file_sha256
from rf_repro.core.typed import Count, strict

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SampleEntry:
    """One image: prompt index, index among the prompt's samples, generator seed, digest of the PNG file."""

    prompt_id: Count
    sample: Count
    seed: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """What a folder's images depend on: the run and its checkpoint, the prompts, and how they were sampled.

    Attributes:
        scale, variant, run_seed, config_hash: of the run.
        step: of the checkpoint.
        weights: which of its weights, e.g. `ema`.
        height, width: of the images, pixels.
        seed: of the sampling.
        num_samples: images a prompt.
        prompts: content hash of all prompts' metadata, in order.
        batch_size: images at once, at most; it may change the last bits of an image.
    """

    scale: str
    variant: str
    run_seed: int
    config_hash: str
    step: Count
    weights: str
    height: Count
    width: Count
    seed: int
    num_samples: Count
    prompts: str
    batch_size: Count


@dataclass(frozen=True)
class ImageFolder:
    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def origin_path(self) -> Path:
        return self.path / "origin.json"

    def is_free(self) -> bool:
        """Whether nothing is there, but for what is just being written or was left so by a killed process."""
        return not self.path.exists() or all(item.name.startswith(".") for item in self.path.iterdir())

    def begin(self, origin: Origin) -> None:
        """Writes where the images to come are from; a folder that was begun so already goes on. Processes that share out the work
        may all begin it.

        Raises:
            UserError: the folder holds something else, or images of another origin.
        """
        is_free = self.is_free()
        begun = self.origin()  # after that look: another process may have begun it meanwhile
        if begun == origin:
            return
        if begun is not None:
            name = next(item.name for item in fields(Origin) if getattr(begun, item.name) != getattr(origin, item.name))
            other = f"{name.replace('_', ' ')} {getattr(begun, name)}, not {getattr(origin, name)}"
            raise UserError(f"{self.path}: is not empty, it holds images of {other}; name a new folder")
        if not is_free:
            raise UserError(f"{self.path}: is not empty; name a new folder")
        write_json(self.origin_path, asdict(origin))

    def origin(self) -> Origin | None:
        """Where the images are from; None where nobody wrote it. Raises UserError when it is not of this version."""
        where = self.origin_path
        return strict(Origin, read_json(where), str(where)) if where.exists() else None

    def image_path(self, prompt_id: int, sample: int) -> Path:
        return self.path / f"{prompt_id:05d}" / "samples" / f"{sample:04d}.png"

    def write_prompt(self, prompt_id: int, metadata: dict[str, Any]) -> None:
        """Writes the prompt's metadata.jsonl, one object in GenEval's official fields."""
        write_text(self.path / f"{prompt_id:05d}" / "metadata.jsonl", canonical_json(metadata) + "\n", durable=False)

    def write_image(self, prompt_id: int, sample: int, seed: int, image: "Image") -> SampleEntry:
        """Writes a PNG atomically."""
        path = self.image_path(prompt_id, sample)
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        with atomic_path(path, durable=False) as temporary:
            temporary.write_bytes(buffer.getvalue())
        return SampleEntry(prompt_id, sample, seed, file_sha256(path))

    def finish(self, entries: Sequence[SampleEntry], expected: int) -> None:
        """Writes the manifest; raises UserError when images are missing from it."""
        if len(entries) != expected:
            raise UserError(f"{self.path}: {len(entries)} images of {expected}; run the sampling again to complete it")
        write_json(self.manifest_path, {"expected": expected, "samples": [asdict(entry) for entry in entries]})

    def is_complete(self) -> bool:
        """Whether the manifest is there, and every image that it lists."""
        return self.manifest_path.exists() and not self.missing()

    def missing(self) -> list[Path]:
        """Images that the manifest lists and that are gone. Raises UserError as `entries`."""
        paths = [self.image_path(entry.prompt_id, entry.sample) for entry in self.entries()]
        return [path for path in paths if not path.exists()]

    def require_unchanged(self) -> None:
        """Raises UserError where an image is not the one that the manifest lists, or the manifest is missing."""
        for entry in self.entries():
            path = self.image_path(entry.prompt_id, entry.sample)
            if path.exists() and file_sha256(path) != entry.sha256:
                raise UserError(f"{path}: is not the image that was drawn (its SHA-256 differs); delete it to have it made again")

    def entries(self) -> list[SampleEntry]:
        """The manifest's rows. Raises UserError when it is missing or not of this version."""
        where, samples = str(self.manifest_path), self.manifest()["samples"]
        return [strict(SampleEntry, item, f"{where}: samples[{index}]") for index, item in enumerate(samples)]

    def manifest(self) -> dict[str, Any]:
        """`expected` images, and `samples`. Raises UserError when it is missing or holds something else."""
        return read_object(self.manifest_path, {"expected": Count, "samples": list[Any]})

    def prompts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(prompt id, metadata) in order of id."""
        for folder in sorted(path for path in self.path.iterdir() if path.is_dir() and path.name.isdigit()):
            yield int(folder.name), read_object(folder / "metadata.jsonl")
