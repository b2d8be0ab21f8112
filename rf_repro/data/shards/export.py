"""Writing samples as shards of each format, to the same bytes each time, as the readers beside this file and the packages
`webdataset` and `datasets` read them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rf_repro.core.files import atomic_folder, atomic_path
from rf_repro.data.shards.samples import RawSample

ROW_GROUP = 100  # rows, as Hugging Face writes images: any order of reading costs little
_MESSAGE = {"from": {"dtype": "string", "_type": "Value"}, "value": {"dtype": "string", "_type": "Value"}}
_FEATURES: dict[str, Any] = {  # of the `datasets` package
    "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"},
    "conversations": {"feature": _MESSAGE, "_type": "List"},
}
_TYPES = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "text": pa.string(),
    "conversations": pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])),
}


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterable[RawSample], shard_format: str) -> None:
    """Writes a shard of samples with PNG images; under its final name it is complete.

    Args:
        path: of the format's suffix; JSON lines have their images in a folder beside it, of its name without the suffix.
        samples: their keys are the names of tar members and image files.
        shard_format: `webdataset`, `parquet` or `jsonl`.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    WRITERS[shard_format](path, list(samples))


def _conversation(sample: RawSample) -> list[dict[str, str]]:
    """LLaVA's form."""
    messages = []
    for number, turn in enumerate(sample.turns):
        mark = "<image>\n" if number == 0 and sample.image is not None else ""
        messages.append({"from": "human", "value": mark + turn.question})
        messages.append({"from": "gpt", "value": turn.answer})
    return messages


def _fields(sample: RawSample) -> dict[str, Any]:
    return {"conversations": _conversation(sample)} if sample.turns else {"text": sample.text}


def _write_tar(path: Path, samples: list[RawSample]) -> None:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            text = {"json": json.dumps(_fields(sample))} if sample.turns else {"txt": sample.text}
            members = {name: value.encode() for name, value in text.items()}
            if sample.image is not None:
                members = {"png": sample.image, **members}
            for name, data in members.items():
                entry = tarfile.TarInfo(f"{sample.key}.{name}")  # time, owner and group stay 0
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _write_parquet(path: Path, samples: list[RawSample]) -> None:
    rows = [
        ({} if sample.image is None else {"image": {"bytes": sample.image, "path": f"{sample.key}.png"}}) | _fields(sample)
        for sample in samples
    ]
    schema = pa.schema([(name, _TYPES[name]) for name in rows[0]])
    features = {"info": {"features": {name: _FEATURES[name] for name in rows[0]}}}
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata({"huggingface": json.dumps(features)}))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP)


def _write_jsonl(path: Path, samples: list[RawSample]) -> None:
    """The images first, all at once: a file of lines never names one that is not there."""
    images = path.with_suffix("")
    lines = []
    for sample in samples:
        name = {} if sample.image is None else {"image": f"{images.name}/{sample.key}.png"}
        lines.append(json.dumps({**name, **_fields(sample)}) + "\n")
    if any(sample.image is not None for sample in samples):
        made = {f"{sample.key}.png" for sample in samples}
        with atomic_folder(
            images, made.__contains__
        ) as temporary:  # instead of those of a run that was stopped before its lines were written
            for sample in samples:
                if sample.image is not None:
                    (temporary / f"{sample.key}.png").write_bytes(sample.image)
    with atomic_path(path) as file:
        file.write_text("".join(lines), encoding="utf-8")


WRITERS = {"webdataset": _write_tar, "parquet": _write_parquet, "jsonl": _write_jsonl}
