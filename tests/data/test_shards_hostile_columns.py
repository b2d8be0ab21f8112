"""Parquet and Arrow from strangers: no damage ends the process, and what is good beside it is read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted import parquet
from rf_repro.data.shards import CorruptSample, RawSample, read_shard, shard_length
from tests.data.hostile import PNG, read, table


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
