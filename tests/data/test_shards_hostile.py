"""Shards from strangers: nothing executes, escapes or exhausts memory, and what is good beside them is still read."""

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted import parquet
from rf_repro.data.shards import CorruptSample, RawSample, read_shard, shard_length
from rf_repro.data.shards.export import encode_png

NOISE = np.random.default_rng(0).bytes(4096).replace(b"\n", b"")  # one line
PNG = encode_png(np.zeros((4, 4, 3), np.uint8))
FORMATS: dict[str, Literal["webdataset", "parquet", "jsonl"]] = {
    ".tar": "webdataset", ".parquet": "parquet", ".arrow": "parquet", ".jsonl": "jsonl",
}  # fmt: skip


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def read(path: Path, task: str = "generation", **columns: str) -> list[str]:
    """Of each sample its text, or what is wrong with it. Every order gives the same, as many as the length says."""
    given = SourceConfig("some", str(path), FORMATS[path.suffix], task, **columns)  # type: ignore[arg-type]
    found = list(read_shard(path, given))
    assert len(found) == shard_length(path, given)
    backwards = list(read_shard(path, given, range(len(found))[::-1]))[::-1]
    assert [sample if isinstance(sample, RawSample) else str(sample) for sample in found] == [
        sample if isinstance(sample, RawSample) else str(sample) for sample in backwards
    ]
    for sample in found:
        assert isinstance(sample, RawSample) or (str(sample).startswith(path.name) and len(str(sample).splitlines()) == 1)
        assert isinstance(sample, CorruptSample) or task == "text" or sample.image == PNG
    return [sample.text if isinstance(sample, RawSample) else str(sample).removeprefix(path.name) for sample in found]


def header(name: str, size: int | bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    """A valid tar header that declares any size."""
    entry = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(entry, key, value)
    data = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    data[124:136] = size if isinstance(size, bytes) else f"{size:011o}\0".encode()
    data[156:157] = kind
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data):06o}\0 ".encode()
    return bytes(data)


def member(name: str, data: bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % 512)


def pair(name: str) -> bytes:
    return member(f"{name}.png", PNG) + member(f"{name}.txt", name.encode())


END = bytes(1024)
GOOD = pair("good")
HUGE = b"\x80" + b"\x7f" + bytes(10)  # about 2**86 bytes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (header("bad.png", 0, b"2", linkname="/etc/passwd") + member("bad.txt", b""), "png is a link, not a plain one"),
        (header("bad.png", 0, b"1", linkname="good.png") + member("bad.txt", b""), "png is a hard link, not a plain one"),
        (header("bad.png", 0, b"3") + member("bad.txt", b""), "png is a device, not a plain one"),
        (header("bad.png", 0, b"6") + member("bad.txt", b""), "png is a named pipe, not a plain one"),
        (member("bad.png", PNG, b"Z") + member("bad.txt", b""), "png is of the unknown kind b'Z'"),
        (pair("/etc/bad"), "png has a path that leaves the folder: /etc/bad.png"),
        (pair("a/../../bad"), "png has a path that leaves the folder: a/../../bad.png"),
        (member("bad.png", PNG, b"S") + member("bad.txt", b""), "png is a sparse file, not a plain one"),
        (
            member("x", b"22 GNU.sparse.major=1\n", b"x") + member("bad.png", PNG) + member("bad.txt", b""),
            "png is a sparse file, not a plain one",
        ),
        (pair("bad") + member("bad.png", PNG), "has two members png"),
        (member("bad.png", PNG) + member("bad.jpg", PNG) + member("bad.txt", b""), "has 2 images (jpg, png); name one by image"),
        (member("bad.png", PNG), "has no txt or caption or text; it has png"),
        (member("bad.txt", b"a"), "has no jpg or jpeg or png or webp; it has txt"),
        (member("bad.png", PNG) + member("bad.txt", b"\xff"), "member txt is not UTF-8"),
        (member("bad.png", PNG) + member("bad.txt", b"a\0"), "txt holds a NUL character"),
        (member("bad.png", PNG) + member("bad.json", b"[" * 99_999), "member json is nested too deeply"),
        (member("bad.png", PNG) + member("bad.json", b"[1]"), "member json is list, not an object"),
        (member("bad.png", PNG) + member("bad.json", b'{"text": NaN}'), "member json is not JSON (NaN is not a number)"),
        (
            member("bad.png", PNG) + member("bad.txt", bytes((4 << 20) + 1)),
            "txt declares 4194305 bytes; at most 4194304",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_tar_sample_is_named_and_its_neighbours_are_read(bad: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(GOOD + bad + pair("after") + END)
    [good, problem, after] = read(tmp_path / "s.tar")
    assert (good, after) == ("good", "after")
    assert problem.startswith(":000001: ")
    assert message in problem
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (header("bad.png", 1 << 32) + b"abc", "member png is cut off: 3 of 4294967296 bytes"),
        (header("bad.png", HUGE) + b"abc", "member png is cut off: 3 of "),
        (header("bad.png", 600) + bytes(400), "member png is cut off: 400 of 600 bytes"),
        (b"\1" * 512, "the rest of the shard: no valid tar header at byte 2048"),
        (b"\1" * 100, "the rest of the shard: cut off within the header at byte 2048"),
        (header("bad.png", b"99999999999\0"), "the rest of the shard: no valid tar header at byte 2048"),
        (header("x", 1 << 32, b"L") + b"abc", "the rest of the shard: declares 4294967296 bytes of name or extended header"),
        (header("x", HUGE, b"x") + b"abc", "bytes of name or extended header at byte 2560; at most 65536"),
        (member("x", b"99 path=a\n", b"x") + pair("b"), "the rest of the shard: no valid extended header before byte"),
        (member("x", b"\xb2\xb3 path=a\n", b"x") + pair("b"), "the rest of the shard: no valid extended header before byte"),
        (bytes(header("a", 0, b"S"))[:482] + b"\1" + bytes(29), "the rest of the shard: no valid tar header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_tar_is_read_up_to_the_damage(rest: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(GOOD + rest)
    [good, problem] = read(tmp_path / "s.tar")
    assert good == "good"
    assert message in problem


def test_a_tar_cut_anywhere(tmp_path: Path) -> None:
    whole = b"".join(pair(f"sample {number}") for number in range(4))
    for cut in range(0, len(whole), 97):
        (tmp_path / "s.tar").write_bytes(whole[:cut])
        found = read(tmp_path / "s.tar")
        num_whole = cut // len(pair("sample 0"))
        assert found[:num_whole] == [f"sample {number}" for number in range(num_whole)]
        assert len(found) <= num_whole + 2
        text = cut - num_whole * len(pair("sample 0")) - 2 * 512 - 512  # bytes of the next sample's text that are there
        assert all(found[num_whole:]) and (num_whole == 4 or text >= 8 or f"sample {num_whole}" not in found)  # noqa: PT018


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: b"\x28\xb5\x2f\xfd" + data], ids=["gzip", "zstd"])
def test_a_compressed_tar_is_refused_with_the_remedy(compress: Any, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(compress(GOOD + END))
    [problem] = read(tmp_path / "s.tar")
    assert "the rest of the shard: compressed (" in problem
    assert problem.endswith("decompress it to a plain .tar")


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
        "\ud800": "cannot be read", "absent.png": "cannot be read",
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
        b"[" * 99_999: "line is nested too deeply", b'{"text": NaN}': "not JSON (NaN", b"\xff": "line is not UTF-8",
        b"[1]": "line is list, not an object", b'{"text": "a"}': "has no image", b'{"text": "a", "image": 3}': "image is int",
        b" " * (5 << 20): "line has 5242880 bytes; at most 4194304 are read", b" ": "line is not JSON",
    }  # fmt: skip
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(line + b"\n" + good for line in bad) + b'\n{"image": "i.p')
    found = read(tmp_path / "s.jsonl")
    assert found[1:-1:2] == ["good"] * len(bad)
    for line, message in zip([*found[:-1:2], found[-1]], [*bad.values(), "line is not JSON"], strict=True):
        assert message in line


def table(num: int = 300) -> pa.Table:
    return pa.table({"image": [PNG] * num, "text": [f"text {i}" for i in range(num)]})


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(table(), path, row_group_size=100, compression="zstd")
    start = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 40)
    found = read(path)
    assert [i for i, text in enumerate(found) if text == f"text {i}"] == [*range(100), *range(200, 300)]
    assert found[100].startswith(":000100: row group 1")
    path.write_bytes(path.read_bytes()[:-20])
    assert read(path) == [": does not end as a Parquet file: cut off, encrypted or another format"]


def test_damaged_statistics_do_not_end_the_process(tmp_path: Path) -> None:
    """Pyarrow ends it where metadata of a column are asked for and statistics are damaged: every byte of the footer is tried."""
    path = tmp_path / "s.parquet"
    pq.write_table(table(20), path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(footer, len(whole) - 8):
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        path.write_bytes(damaged)
        given = SourceConfig("some", str(path), "parquet")
        for sample in read_shard(path, given, range(min(30, shard_length(path, given)))):
            assert isinstance(sample, RawSample | CorruptSample)


def test_large_row_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(table(), path, row_group_size=100)
    size = max(pq.ParquetFile(path).metadata.row_group(number).total_byte_size for number in range(3))
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", size)
    assert read(path)[:2] == ["text 0", "text 1"]
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1000)
    assert read(path)[299].startswith(":000299: row group 2 expands to ")
    assert read(path)[299].endswith(" bytes; at most 1000 are read, so write smaller row groups")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columns_that_are_not_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"picture": [PNG], "text": ["a"]}, "has no column image; it has picture, text: set image_column"),
        ({"image": [PNG], "words": ["a"]}, "has no column txt or caption or text; it has image, words: set text_column"),
        ({"image": ["i.png"], "text": ["a"]}, "column image is string; images are binary"),
        ({"image": [{"path": "i.png"}], "text": ["a"]}, "column image is struct<path: string>, without a field bytes"),
        ({"image": [PNG], "text": [PNG]}, "column text is binary, not text; stored objects are never unpickled"),
        ({"image": pa.array([PNG[:4]], pa.binary(4)), "text": ["a"]}, "column image is fixed_size_binary[4]; images are binary"),
        ({"image": [PNG], "text": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}, "column text is map<string, int64"),
    ]
    for columns, message in cases:
        made = pa.table(columns)
        if suffix == ".parquet":
            pq.write_table(made, path)
        else:
            with pa.ipc.new_stream(path, made.schema) as writer:
                writer.write_table(made)
        [problem] = read(path)
        assert problem.startswith(f": {message}")


def test_a_damaged_arrow_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "s.arrow"
    with pa.ipc.new_stream(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=100)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    found = read(path)
    assert found[:200] == [f"text {i}" for i in range(200)]
    assert len(found) == 201
    assert found[200].startswith(":000200: the rest of the shard: damaged from byte ")

    with pa.memory_map(str(path)) as file:
        pa.ipc.read_message(file)
        start = file.tell()
    path.write_bytes(whole[start:])  # pyarrow crashes on a record batch in the schema's place
    assert read(path) == [": no Arrow file (it starts with a message of type record batch)"]

    for compression in ("zstd", "lz4"):
        with pa.ipc.new_stream(path, table().schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table())
        assert "(compressed; write it without compression)" in read(path)[0]
    coded = table().set_column(1, "text", table()["text"].dictionary_encode())
    with pa.ipc.new_stream(path, coded.schema) as writer:
        writer.write_table(coded)
    assert "only record batches are read, without dictionaries" in read(path)[0]


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
    for name, table in (("same", {"image": numbered, "text": ["a"] * 1000}), ("list", {"image": [PNG], "text": lists})):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet", dictionary_pagesize_limit=1 << 28, write_statistics=False)
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
