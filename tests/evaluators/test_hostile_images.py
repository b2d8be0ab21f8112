"""Images of strangers, wherever they are opened: other formats by a wrong name, bombs, damage, pipes. Each is named."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from evaluators.dpg import folder as dpg
from evaluators.geneval.sampled import load_listed
from evaluators.images import read_images, reopen, upright_size
from evaluators.understanding.images import rgb_image
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder, SampleEntry
from rf_repro.core.untrusted.image_header import read_image
from rf_repro.core.untrusted.problems import CorruptSample


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 13_400) -> bytes:
    """A whole PNG of few bytes and 180 million black pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format=kind)
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) (w) file closefile showpage\n"
HOSTILE = {
    "eps": (EPS, "its image is not JPEG, PNG, WebP or GIF"),
    "tiff": (encoded("TIFF"), "its image is not JPEG, PNG, WebP or GIF"),
    "ppm": (encoded("PPM"), "its image is not JPEG, PNG, WebP or GIF"),
    "bomb": (bomb(), "its image is of 13400 x 13400 pixels; pixels decoded at most: 64000000"),
    "cut": (encoded("PNG")[:45], "its image cannot be decoded"),
    "empty": (b"", "its image is empty"),
}


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, str]:
    """(bytes, what is said of them), where Pillow's guessing opener must not be called at all."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Image.open"))
    return HOSTILE[request.param]


def test_every_opener_refuses_them_by_name(hostile: tuple[bytes, str], tmp_path: Path) -> None:
    data, problem = hostile
    digest = hashlib.sha256(data).hexdigest()
    folder = ImageFolder(tmp_path)
    path = folder.image_path(0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(CorruptSample, match=problem):
        rgb_image(data)
    assert problem in str(read_images([path], upright_size)[0])
    assert problem in str(load_listed(folder, SampleEntry(0, 0, 0, digest)))
    for read in (
        lambda: read_image(path),
        lambda: reopen(path, digest),
    ):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value).startswith(f"{path}: {problem}")
    with pytest.raises(UserError, match="no image of its folder can be read"):
        dpg._resolution([dpg._Found("item", path)], 1)


def test_pipes_folders_and_missing_files_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "good.png").write_bytes(encoded("PNG"))
    names = ("pipe.png", "folder.png", "gone.png", "good.png")
    pipe, folder, gone, good = read_images([tmp_path / name for name in names], upright_size)
    assert (pipe, gone) == ("is a pipe or a device; name a plain file", "no such file")
    assert str(folder).startswith("is a folder")
    assert good == (hashlib.sha256(encoded("PNG")).hexdigest(), (8, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_what_is_allowed_has_the_pixels_that_pillow_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(kind))
    with Image.open(path) as image:
        assert read_image(path).convert("RGB").tobytes() == image.convert("RGB").tobytes()
