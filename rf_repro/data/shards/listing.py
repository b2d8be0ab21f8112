"""Which files a source's path means, and a fingerprint of them."""

import glob
import hashlib
import os
from pathlib import Path

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import canonical_json
from rf_repro.core.untrusted.problems import shown

SUFFIXES = {"webdataset": (".tar",), "parquet": (".parquet", ".arrow"), "jsonl": (".jsonl", ".ndjson")}
COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".xz", ".lz4")
SAMPLED_BYTES = 1 << 16  # at the start, the middle and the end of a shard


def list_shards(source: SourceConfig) -> list[Path]:
    """Shards of a source, sorted by path: the file, the pattern's matches, or all files of the format below the folder.

    Raises:
        UserError: there are none, one is compressed or of another format, or a link leads out of the folder.
    """
    where = f"data.sources.{source.name}.path={source.path!r}"
    if not source.path:
        raise UserError(f"{where}: is not set; name a file, a folder or a pattern of shards")
    suffixes, path = SUFFIXES[source.format], Path(source.path).expanduser()
    if path.is_file():
        found, root = [path], None
    elif path.is_dir():
        root = path
        files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names if not name.startswith(".")]
        found = [file for file in files if file.suffix.lower() in (*suffixes, *COMPRESSED)]
    else:
        root, parts = Path(), path.parts
        for number, part in enumerate(parts):
            if glob.has_magic(part):
                root = Path(*parts[:number])
                break
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if not Path(name).is_dir()]
    if not found:
        raise UserError(f"{where}: no shards there; format={source.format} has files {' or '.join(suffixes)}")
    for file in found:
        if file.suffix.lower() in COMPRESSED:
            raise UserError(f"{where}: {shown(file)} is compressed, and samples are read by position; decompress it first")
        if file.suffix.lower() not in suffixes:
            raise UserError(f"{where}: {shown(file)} is no shard of format={source.format} ({' or '.join(suffixes)})")
        if root is not None and not file.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{where}: {shown(file)} is a link out of {shown(root)}; name a folder that holds what it points to")
        if not file.is_file():
            raise UserError(f"{where}: {shown(file)} is not a plain file")
    return sorted(found)


def fingerprint(source: SourceConfig) -> str:
    """SHA-256 over the shards' names, sizes and some of their bytes: what changes when other data lies at the path.

    Image files beside JSON lines are not looked at, and neither is all of a shard: it tells mix-ups, not forgeries.
    """
    shards = list_shards(source)
    common = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    digest = hashlib.sha256()
    for shard in shards:
        size = shard.stat().st_size
        digest.update(canonical_json([shard.absolute().relative_to(common).as_posix(), size]).encode())
        with open(shard, "rb") as file:
            for start in sorted({0, max(0, size // 2), max(0, size - SAMPLED_BYTES)}):
                file.seek(start)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()
