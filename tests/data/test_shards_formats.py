"""Every format gives the same samples in any order, and agrees with the packages that define them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.errors import UserError
from rf_repro.data.shards import CorruptSample, RawSample, Turn, fingerprint, list_shards, read_shard, shard_length
from rf_repro.data.shards.export import encode_png, write_shard
from rf_repro.data.shards.images import decode_image

FORMATS = {"webdataset": ".tar", "parquet": ".parquet", "jsonl": ".jsonl"}
Format = Literal["webdataset", "parquet", "jsonl"]
Task = Literal["generation", "understanding", "text"]
NUM = 230  # three row groups
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 6, 7, 3), np.uint8)
TEXTS = [f"Nr. {i}: ein Bär «und» 熊\n\tline two" for i in range(NUM)]
TURNS = [tuple(Turn(f"question {i}.{turn} ?", f"answer é {i}.{turn}") for turn in range(1 + i % 3)) for i in range(NUM)]


def source(shard_format: Format, path: Path, task: Task = "generation", **columns: str) -> SourceConfig:
    return SourceConfig("some", str(path), shard_format, task, **columns)  # type: ignore[arg-type]


def samples(task: str) -> list[RawSample]:
    return [
        RawSample(
            f"{i:05d}",
            None if task == "text" else encode_png(IMAGES[i]),
            "" if task == "understanding" else TEXTS[i],
            TURNS[i] if task == "understanding" else (),
        )
        for i in range(NUM)
    ]


def read(path: Path, given: SourceConfig, order: list[int] | None = None) -> list[RawSample]:
    found = []
    for sample in read_shard(path, given, order):
        assert isinstance(sample, RawSample), sample
        found.append(sample)
    return found


def contents(found: list[RawSample]) -> list[tuple[Any, ...]]:
    return [(sample.image, sample.text, sample.turns) for sample in found]


@pytest.mark.parametrize("task", ["generation", "understanding", "text"])
@pytest.mark.parametrize("shard_format", FORMATS)
def test_what_is_written_is_read_in_any_order(shard_format: Format, task: Task, tmp_path: Path) -> None:
    path = tmp_path / f"shard{FORMATS[shard_format]}"
    write_shard(path, samples(task), shard_format)
    given = source(shard_format, path, task)
    assert shard_length(path, given) == NUM
    found = read(path, given)
    assert contents(found) == contents(samples(task))
    assert [sample.key for sample in found] == [f"{path.name}:{i:06d}" for i in range(NUM)]
    order = np.random.default_rng(1).permutation(NUM).tolist()
    assert read(path, given, [*order, 5, 5]) == [found[i] for i in [*order, 5, 5]]
    assert read(path, given, []) == []


@pytest.mark.parametrize("shard_format", FORMATS)
def test_the_same_bytes_each_time(shard_format: Format, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / name / f"shard{FORMATS[shard_format]}", samples("generation"), shard_format)
    files = {name: sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("a", "b")}
    assert [path.read_bytes() for path in files["a"]] == [path.read_bytes() for path in files["b"]]
    assert fingerprint(source(shard_format, tmp_path / "a")) == fingerprint(source(shard_format, tmp_path / "b"))


def test_webdataset_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    ours = tmp_path / "ours.tar"
    write_shard(ours, samples("generation"), "webdataset")
    theirs = list(webdataset.WebDataset(str(ours), shardshuffle=False))
    assert [(sample["png"], sample["txt"].decode(), ()) for sample in theirs] == contents(samples("generation"))

    path = tmp_path / "theirs.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(NUM):
            conversation = [{"from": "human", "value": f"<image>\n{TURNS[i][0].question}"},
                            {"from": "gpt", "value": TURNS[i][0].answer}]  # fmt: skip
            writer.write({"__key__": f"a.b/{i:05d}", "png": encode_png(IMAGES[i]), "json": {"conversations": conversation}})
    given = source("webdataset", path, "understanding")
    assert contents(read(path, given)) == [(encode_png(IMAGES[i]), "", TURNS[i][:1]) for i in range(NUM)]
    plain = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert shard_length(path, given) == len(plain) == NUM


def add(tar: tarfile.TarFile, name: str, data: bytes, **fields: Any) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in fields.items():
        setattr(entry, key, value)
    tar.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"])
def test_tar_members_are_grouped_as_webdataset_does(form: int, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "shard.tar"
    long = "folder/" * 12 + "n" * 90 if form != tarfile.USTAR_FORMAT else "folder/" * 12 + "n" * 60
    names = ["a.JPG", "a.txt", "x/a.txt", "x/a.jpg", "b.c/d.e.png", "b.c/d.caption.txt", "nothing", "__meta.x__",
             f"{long}.jpg", f"{long}.txt", "ü.jpg", "ü.txt"]  # fmt: skip
    with tarfile.open(path, "w", format=form) as tar:
        add(tar, "x", b"", type=tarfile.DIRTYPE)
        for name in names:
            add(tar, name, name.encode())
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    given = source("webdataset", path)
    assert shard_length(path, given) == len(theirs) == 5
    found = list(read_shard(path, given))
    for ours, sample in zip(found, theirs, strict=True):
        if "jpg" in sample:
            assert isinstance(ours, RawSample)
            assert (ours.image, ours.text) == (sample["jpg"], sample["txt"].decode())
    assert isinstance(found[2], CorruptSample)
    assert str(found[2]).endswith("has no txt or caption or text; it has e.png, caption.txt")
    named = source("webdataset", path, image_column="e.png", text_column="caption.txt")
    [sample] = read(path, named, [2])
    assert (sample.image, sample.text) == (b"b.c/d.e.png", "b.c/d.caption.txt")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("offline")
def test_datasets_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cache = str(tmp_path / "cache")
    for task in ("generation", "understanding"):
        path = tmp_path / f"{task}.parquet"
        write_shard(path, samples(task), "parquet")
        theirs = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache)
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in theirs["image"]]), IMAGES)  # an Image feature
        if task == "generation":
            assert list(theirs["text"]) == TEXTS
        else:
            assert [[turn["value"] for turn in turns[1::2]] for turns in theirs["conversations"]] == [
                [turn.answer for turn in turns] for turns in TURNS
            ]
        given = source("parquet", tmp_path, task)  # type: ignore[arg-type]
        theirs.to_parquet(str(tmp_path / "again.parquet"))
        assert contents(read(tmp_path / "again.parquet", given)) == contents(samples(task))
        theirs.save_to_disk(str(tmp_path / task / "saved"), num_shards=2)
        arrow = list_shards(source("parquet", tmp_path / task / "saved", task))  # type: ignore[arg-type]
        assert [path.suffix for path in arrow] == [".arrow", ".arrow"]
        assert sum(shard_length(path, given) for path in arrow) == NUM
        assert [item for path in arrow for item in contents(read(path, given))] == contents(samples(task))


TABLE = pa.table(
    {
        "image": pa.array([encode_png(image) for image in IMAGES], pa.large_binary()),
        "caption": pa.array(TEXTS, pa.large_string()).dictionary_encode(),
        "other": pa.array(range(NUM)),
    }
)


def write_parquet(path: Path, **options: Any) -> None:
    pq.write_table(TABLE, path, **options)


def write_stream(path: Path) -> None:
    with pa.ipc.new_stream(path, PLAIN.schema) as writer:
        writer.write_table(PLAIN, max_chunksize=50)


def write_file(path: Path) -> None:
    with pa.ipc.new_file(path, PLAIN.schema) as writer:
        writer.write_table(PLAIN, max_chunksize=50)


LENGTHS = {"image": "DELTA_LENGTH_BYTE_ARRAY", "caption": "DELTA_LENGTH_BYTE_ARRAY"}
PREFIXES = {"image": "PLAIN", "caption": "DELTA_BYTE_ARRAY"}
PLAIN = TABLE.set_column(1, "caption", pa.array(TEXTS, pa.large_string()))


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("parquet", write_parquet),
        ("parquet", lambda path: write_parquet(path, row_group_size=7, compression="zstd", data_page_version="2.0")),
        ("parquet", lambda path: write_parquet(path, compression="gzip", use_dictionary=False, data_page_size=300)),
        ("parquet", lambda path: pq.write_table(PLAIN, path, column_encoding=LENGTHS, use_dictionary=False)),
        ("parquet", lambda path: pq.write_table(PLAIN, path, column_encoding=PREFIXES, use_dictionary=False)),
        ("arrow", write_stream),
        ("arrow", write_file),
    ],
    ids=["parquet", "small groups", "small pages", "delta lengths", "shared prefixes", "arrow stream", "arrow file"],
)
def test_other_writers_columns(suffix: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / f"shard.{suffix}"
    write(path)
    order = np.random.default_rng(2).permutation(NUM).tolist()
    given = source("parquet", path)
    assert contents(read(path, given, order)) == [(encode_png(IMAGES[i]), TEXTS[i], ()) for i in order]
    assert shard_length(path, given) == NUM


def test_bad_rows_keep_their_places(tmp_path: Path) -> None:
    image = encode_png(IMAGES[0])
    rows = [
        {"image": image, "text": "a"},
        {"image": None, "text": "b"},
        {"image": image, "text": None},
        {"image": image, "text": "d"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    (tmp_path / "i.png").write_bytes(image)
    lines = [json.dumps(row | {"image": row["image"] and "i.png"}) for row in rows]
    (tmp_path / "s.jsonl").write_text("\n".join(["", lines[0], "", *lines[1:]]))  # empty lines count for nothing
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number, row in enumerate(rows):
            for name, value in (("png", row["image"]), ("txt", row["text"])):
                if value is not None:
                    add(tar, f"{number}.{name}", value if isinstance(value, bytes) else str(value).encode())
    for shard_format, suffix in FORMATS.items():
        path = tmp_path / f"s{suffix}"
        given = source(shard_format, path)  # type: ignore[arg-type]
        assert shard_length(path, given) == 4
        found = list(read_shard(path, given, [3, 2, 1, 0]))
        assert [sample.text if isinstance(sample, RawSample) else str(sample)[: len(path.name) + 14] for sample in found] == [
            "d", f"{path.name}:000002: has n", f"{path.name}:000001: {'image is' if suffix == '.parquet' else 'has no i'}"[
                : len(path.name) + 14], "a"]  # fmt: skip
        assert isinstance(found[0], RawSample)
        assert found[0].image is not None
        np.testing.assert_array_equal(decode_image(found[0].image, 1000), np.asarray(Image.open(io.BytesIO(image))))


def test_listing(tmp_path: Path) -> None:
    for name in ("b/2.tar", "a/1.tar", "a/.hidden.tar", "a/notes.txt", "c/3.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def names(shard_format: Format, path: str) -> list[str]:
        return [found.relative_to(tmp_path).as_posix() for found in list_shards(source(shard_format, tmp_path / path))]

    assert names("webdataset", "") == ["a/1.tar", "b/2.tar"]
    assert names("webdataset", "*/*.tar") == names("webdataset", "**/*.tar") == ["a/1.tar", "b/2.tar"]
    assert names("webdataset", "b/[12].tar") == names("webdataset", "b/2.tar") == ["b/2.tar"]
    assert names("parquet", "") == ["c/3.parquet"]
    for shard_format, path, message in (
        ("jsonl", "", "no shards there; format=jsonl has files .jsonl or .ndjson"),
        ("webdataset", "absent", "no shards there"),
        ("webdataset", "a/*", "notes.txt is no shard of format=webdataset (.tar)"),
    ):
        with pytest.raises(UserError) as caught:
            names(shard_format, path)  # type: ignore[arg-type]
        assert message in str(caught.value)
    with pytest.raises(UserError, match="path='': is not set"):
        list_shards(SourceConfig("some"))
    (tmp_path / "a/4.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"4\.tar\.gz is compressed, and samples are read by position; decompress it first"):
        names("webdataset", "a")


def test_no_link_leads_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/1.tar").write_bytes(b"")
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/2.tar").write_bytes(b"")
    (tmp_path / "in/deep/3.tar").symlink_to("../2.tar")  # within the folder: as Hugging Face's cache has them
    given = source("webdataset", tmp_path / "in")
    assert len(list_shards(given)) == 2
    (tmp_path / "in/deep/folder").symlink_to(tmp_path / "outside")
    assert len(list_shards(given)) == 2  # linked folders are not entered
    with pytest.raises(UserError, match=r"1\.tar is a link out of"):
        list_shards(source("webdataset", tmp_path / "in/deep/*/*.tar"))
    (tmp_path / "in/deep/1.tar").symlink_to(tmp_path / "outside/1.tar")
    for path in ("in", "in/**/*.tar", "in/deep/[1].tar"):
        with pytest.raises(UserError, match=r"1\.tar is a link out of"):
            list_shards(source("webdataset", tmp_path / path))
    assert len(list_shards(source("webdataset", tmp_path / "in/deep/1.tar"))) == 1  # named itself


def test_fingerprint_tells_shards_apart(tmp_path: Path) -> None:
    def write(folder: str, shards: dict[str, bytes]) -> str:
        for name, data in shards.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(data)
        return fingerprint(source("webdataset", tmp_path / folder))

    data = np.random.default_rng(0).bytes(400_000)
    whole = {"x/1.tar": data, "y/2.tar": b"b"}
    same = write("a", whole)
    assert write("b", whole) == same
    changed = [data[:-1] + b"\0", b"\0" + data[1:], data[:200_000] + b"\0" + data[200_001:], data + b"\0"]
    others = [write(f"c{i}", {**whole, "x/1.tar": other}) for i, other in enumerate(changed)]
    others += [write("d", {"x/1.tar": data}), write("e", {"x/1.tar": data, "y/3.tar": b"b"})]
    assert len({same, *others}) == len(others) + 1
