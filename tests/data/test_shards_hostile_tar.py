"""Tars from strangers: what is bad is named, what is good beside it is read."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.data.hostile import END, GOOD, HUGE, PNG, header, member, pair, read


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
        (member("bad.png", PNG) + member("bad.json", b"[" * 99_999), "member json is not JSON (nested too deeply"),
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
