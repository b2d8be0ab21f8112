"""Shards from strangers: nothing executes, escapes or exhausts memory, and what is good beside them is still read."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards import CorruptSample, RawSample, read_shard, shard_length
from tests.data.hostile import END, FORMATS, GOOD, PNG, header, member, pair, read, table

NOISE = np.random.default_rng(0).bytes(4096).replace(b"\n", b"")  # one line


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_no_shard_is_one_corrupt_sample(suffix: str, tmp_path: Path) -> None:
    for data in (b"\x80\x04K\x01.", b"{", b"ARROW1\0\0", b"PAR1", b"PAR1" * 9, NOISE, b"\xff\xff\xff\xff\x10\0\0\0" * 9):
        path = tmp_path / f"s{suffix}"
        path.write_bytes(data)
        [problem] = read(path)
        assert problem.startswith(":")
    path.unlink()
    path.mkdir()
    assert len(read(path)) == 1
    assert len(read(tmp_path / f"absent{suffix}")) == 1


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickled = pickle.dumps(Canary(canary))
    pickle.loads(pickled)
    canary.unlink()  # it works
    members = {"pyd": pickled, "pickle": pickled, "png": PNG, "caption.pyd": pickled, "image.pyd": pickled}
    (tmp_path / "s.tar").write_bytes(b"".join(member(f"0.{name}", data) for name, data in members.items()) + END)
    assert read(tmp_path / "s.tar") == [":000000: has no txt or caption or text; it has pyd, pickle, png, caption.pyd, image.pyd"]
    problem = ":000000: member {} is pickled; stored objects are never unpickled"
    assert read(tmp_path / "s.tar", text_column="caption.pyd") == [problem.format("caption.pyd")]
    (tmp_path / "s.tar").write_bytes(member("0.txt", b"a") + member("0.pyd", pickled))
    assert read(tmp_path / "s.tar", image_column="pyd") == [problem.format("pyd")]
    assert "it has txt, pyd (pickled, never read)" in read(tmp_path / "s.tar")[0]

    kind = pa.binary()
    field = pa.field("text", kind, metadata={"ARROW:extension:name": "arrow.py_extension_type",
                                             "ARROW:extension:metadata": pickled})  # fmt: skip
    pandas = {"pandas": json.dumps({"columns": [{"name": "text", "pandas_type": "bytes", "numpy_type": "object"}]})}
    for schema in (pa.schema([("image", kind), field]), pa.schema([("image", kind), ("text", kind)], pandas)):
        table = pa.table([[PNG], [pickled]], schema=schema)
        pq.write_table(table, tmp_path / "s.parquet")
        with pa.ipc.new_stream(tmp_path / "s.arrow", schema) as writer:
            writer.write_table(table)
        for suffix in (".parquet", ".arrow"):
            [found] = read(tmp_path / f"s{suffix}")
            assert found.startswith(": column text is ")
            assert found.endswith("; stored objects are never unpickled")
    (tmp_path / "s.jsonl").write_bytes(pickled + b"\n")
    assert all("line is not" in line for line in read(tmp_path / "s.jsonl"))
    assert not canary.exists()


def test_json_lines_stay_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "sub/good.png").write_bytes(PNG)
    (folder / "good.png").symlink_to("sub/good.png")
    (folder / "file.png").symlink_to("../outside.png")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dev.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with open(folder / "large.png", "wb") as file:
        file.truncate((256 << 20) + 1)
    cases = {
        "sub/good.png": "", "good.png": "", "./sub/../good.png": "leaves the shard's folder", 
        "../outside.png": "leaves the shard's folder",
        str(folder / "good.png"): "leaves the shard's folder", "file.png": "leaves the shard's folder by a link",
        "out/outside.png": "leaves the shard's folder by a link", "dev.png": "leaves the shard's folder by a link",
        "loop.png": "cannot be read", "pipe.png": "is not a plain file", "sub": "is not a plain file", "": "is not a plain file",
        "a\0b": "leaves the shard's folder", "x" * 5000: "cannot be read", 
        "\ud800": "half a surrogate pair", "absent.png": "cannot be read",
        "large.png": "has 268435457 bytes; at most 268435456 are read", "good.png/x": "cannot be read",
    }  # fmt: skip
    rows = [{"image": name, "text": "a"} for name in cases]
    (folder / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for found, (name, problem) in zip(read(folder / "s.jsonl"), cases.items(), strict=True):
        assert problem in found, name
        assert (found == "a") == (not problem), name


def test_bad_lines_are_named_and_their_neighbours_are_read(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(PNG)
    good = b'{"image": "i.png", "text": "good"}'
    bad = {
        b"[" * 99_999: "(nested too deeply", b'{"text": NaN}': "not JSON (NaN", b"\xff": "(not UTF-8",
        b"[1]": "line is list, not an object", b'{"text": "a"}': "has no image", b'{"text": "a", "image": 3}': "image is int",
        b" " * (5 << 20): "line has 5242880 bytes; at most 4194304 are read", b" ": "line is not JSON",
    }  # fmt: skip
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(line + b"\n" + good for line in bad) + b'\n{"image": "i.p')
    found = read(tmp_path / "s.jsonl")
    assert found[1:-1:2] == ["good"] * len(bad)
    for line, message in zip([*found[:-1:2], found[-1]], [*bad.values(), "line is not JSON"], strict=True):
        assert message in line


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".tar"])
def test_any_byte_may_be_wrong(suffix: str, tmp_path: Path) -> None:
    """Nothing but CorruptSample comes of it, and the process lives: offsets that point outside would crash it."""
    path = tmp_path / f"s{suffix}"
    made = table(20)
    if suffix == ".parquet":
        pq.write_table(made, path)
    elif suffix == ".arrow":
        with pa.ipc.new_file(path, made.schema) as writer:
            writer.write_table(made, max_chunksize=10)
    else:
        path.write_bytes(b"".join(pair(f"{i}") for i in range(20)) + END)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    given = SourceConfig("some", str(path), FORMATS[suffix])
    for place in rng.integers(0, len(whole) - 8, 300):
        damaged = bytearray(whole)
        damaged[place : place + 8] = rng.bytes(8) if place % 2 else struct.pack("<q", rng.integers(-(2**40), 2**40))
        path.write_bytes(damaged)
        assert shard_length(path, given) < 2_000_000
        for sample in read_shard(path, given, range(min(30, shard_length(path, given)))):
            assert isinstance(sample, RawSample | CorruptSample)


READER = """
import resource, sys
from rf_repro.core.untrusted import parquet
parquet.MAX_GROUP_BYTES = 32 << 20
from pathlib import Path
from rf_repro.config.data_schema import SourceConfig
from rf_repro.data.shards import RawSample, read_shard, shard_length
for path in map(Path, sys.argv[1:]):
    kind = {".tar": "webdataset", ".jsonl": "jsonl"}.get(path.suffix, "parquet")
    source = SourceConfig("some", str(path), kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    samples = read_shard(path, source, list(range(min(50, shard_length(path, source)))))
    good = sum(isinstance(sample, RawSample) for sample in samples)
    print(path.name, good, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
"""


def memory_of(paths: list[Path]) -> dict[str, tuple[int, int]]:
    """(good samples among the first 50, MiB by which memory grew at most) of each shard, read in another process."""
    done = subprocess.run([sys.executable, "-c", READER, *map(str, paths)], capture_output=True, text=True, check=True)
    return {name: (int(good), int(grown)) for name, good, grown in (line.split() for line in done.stdout.splitlines())}


def test_memory_stays_small(tmp_path: Path) -> None:
    def sparse(name: str, start: bytes, size: int, end: bytes = b"") -> Path:
        with open(tmp_path / name, "wb") as file:
            file.write(start)
            file.seek(size, os.SEEK_CUR)
            file.write(end)
        return tmp_path / name

    size = 1 << 30
    image = b"\x89PNG" + bytes(8 << 20)
    numbered = pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), [image])], ["bytes"])
    coded = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 50_000])
    lists = pa.ListArray.from_arrays(pa.array([0, 20_000], pa.int32()), coded)
    for name, columns in (("same", {"image": numbered, "text": ["a"] * 1000}), ("list", {"image": [PNG], "text": lists})):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", dictionary_pagesize_limit=1 << 28, write_statistics=False)
    zeros = pa.table({"image": [bytes(100 << 20)], "text": ["a"]})
    pq.write_table(zeros, tmp_path / "zeros.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    paths = [
        sparse("member.tar", GOOD + header("a.png", size), size, member("a.txt", b"a")),
        sparse("name.tar", GOOD + header("x", size, b"L"), size, GOOD),
        sparse("pax.tar", GOOD + header("x", size, b"x"), size, GOOD),
        sparse("line.jsonl", b'{"image": "', size // 4, b'"}\n'),
        sparse("footer.parquet", b"PAR1", size, struct.pack("<I", size - 100) + b"PAR1"),
        *(tmp_path / f"{name}.parquet" for name in ("same", "list", "zeros")),
    ]
    found = memory_of(paths)
    assert {name: good for name, (good, _) in found.items()} == {
        "member.tar": 1, "name.tar": 1, "pax.tar": 1, "line.jsonl": 0, "footer.parquet": 0,
        "same.parquet": 50, "list.parquet": 0, "zeros.parquet": 0,
    }  # fmt: skip
    assert max(grown for _, grown in found.values()) < 48, found
