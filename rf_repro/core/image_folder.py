"""Samples on disk in GenEval's official layout, with a manifest that says what should be there.

`DIR/00000/metadata.jsonl` holds one JSON object, `DIR/00000/samples/0000.png` and on its images; `DIR/manifest.json`
is written last, so its existence means that the folder is complete.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, read_json, write_json, write_text
from rf_repro.core.hashing import canonical_json, file_sha256
from rf_repro.core.records import strict

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class SampleEntry:
    """One image: prompt index, index among the prompt's samples, generator seed, digest of the PNG file."""

    prompt_id: int
    sample: int
    seed: int
    sha256: str


@dataclass(frozen=True)
class ImageFolder:
    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

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
        return self.manifest_path.exists()

    def entries(self) -> list[SampleEntry]:
        """The manifest's rows. Raises UserError when it is missing or not of this version."""
        where = str(self.manifest_path)
        return [strict(SampleEntry, item, where) for item in read_json(self.manifest_path)["samples"]]

    def prompts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(prompt id, metadata) in order of id."""
        for folder in sorted(path for path in self.path.iterdir() if path.is_dir() and path.name.isdigit()):
            yield int(folder.name), read_json(folder / "metadata.jsonl")
