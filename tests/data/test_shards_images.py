"""Decoding against Pillow's own way to the same pixels; sizes without decoding; images that claim or hold too much."""

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps

from rf_repro.data.shards import CorruptSample
from rf_repro.data.shards.images import decode_image, image_size, resize

MAX = 1_000_000
COLORS = np.random.default_rng(0).integers(0, 256, (21, 34, 4), np.uint8)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, color: int = 0) -> bytes:
    """A PNG of given chunks after its header."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), *chunks, (b"IEND", b"")]
    joined = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(joined)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_orientation_as_pillow_transposes(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(COLORS[..., :3]), form, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, MAX), expected)
    assert image_size(data, MAX) == (expected.shape[1], expected.shape[0])


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_transparency_is_over_white() -> None:
    np.testing.assert_allclose(decode_image(encode(Image.fromarray(COLORS)), MAX), over_white(COLORS), atol=1)
    lossless = decode_image(encode(Image.fromarray(COLORS), "WEBP", lossless=True, exact=True), MAX)
    np.testing.assert_allclose(lossless, over_white(COLORS), atol=1)
    grey = Image.fromarray(COLORS[..., 0]).convert("LA")
    grey.putalpha(Image.fromarray(COLORS[..., 3]))
    expected = over_white(np.dstack([COLORS[..., [0, 0, 0]], COLORS[..., 3]]))
    np.testing.assert_allclose(decode_image(encode(grey), MAX), expected, atol=1)


def test_palettes() -> None:
    few = Image.fromarray(COLORS[..., :3]).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(few), MAX), np.asarray(few.convert("RGB")))
    np.testing.assert_array_equal(decode_image(encode(few, "GIF"), MAX), np.asarray(few.convert("RGB")))
    expected = np.asarray(few.convert("RGB")).copy()
    expected[np.asarray(few) == 3] = 255  # one colour is transparent
    np.testing.assert_array_equal(decode_image(encode(few, transparency=3), MAX), expected)
    np.testing.assert_array_equal(decode_image(encode(few, "GIF", transparency=3), MAX), expected)


def test_grey_of_1_8_and_16_bits() -> None:
    grey = COLORS[..., 0]
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(grey)), MAX), np.repeat(grey[..., None], 3, 2))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(deep)), MAX), np.repeat(grey[..., None], 3, 2))
    bits = grey > 127
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(bits)), MAX), np.repeat(bits[..., None] * 255, 3, 2))


def test_cmyk() -> None:
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    data = encode(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=100)
    np.testing.assert_allclose(decode_image(data, MAX).astype(int), flat, atol=4)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "white")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data, MAX), np.asarray(frames[0]))


def bombs() -> dict[str, bytes]:
    """Files of a few kilobytes that would fill gigabytes."""
    screen = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame = bytearray(screen)
    struct.pack_into("<HH", screen, 6, 60_000, 60_000)
    descriptor = frame.index(b",\0\0\0\0\x08\0\x08\0")
    struct.pack_into("<HH", frame, descriptor + 5, 60_000, 60_000)  # larger than the screen
    webp = bytearray(encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", save_all=True,
                            append_images=[Image.new("RGBA", (8, 8))]))  # fmt: skip
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (59_999).to_bytes(3, "little") * 2
    lossy = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP"))
    struct.pack_into("<HH", lossy, 26, 16_383, 16_383)
    lossless = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    struct.pack_into("<I", lossless, 21, 16_382 | 16_382 << 14)
    jpeg = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 60_000, 60_000)
    zeros = zlib.compress(bytes(1 << 16), 9)
    return {
        "png header": png(60_000, 60_000, (b"IDAT", zeros)),
        "png largest": png(2**31 - 1, 2**31 - 1, (b"IDAT", zeros)),
        "gif screen": bytes(screen),
        "gif frame": bytes(frame),
        "webp canvas": bytes(webp),
        "webp lossy": bytes(lossy),
        "webp lossless": bytes(lossless),
        "jpeg": bytes(jpeg),
    }


@pytest.mark.parametrize("name", bombs())
@pytest.mark.parametrize("limit", [1, 178_956_970, None], ids=["low", "default", "off"])
def test_a_bomb_is_refused_by_its_header(name: str, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Pillow's global limit is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    tracemalloc.start()
    for read in (image_size, decode_image):
        with pytest.raises(CorruptSample, match=r"its image (is of \d+ x \d+ pixels; data.filters.max_pixels=1000000|cannot be)"):
            read(bombs()[name], MAX)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_pillows_global_limit_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for form in ("PNG", "JPEG", "WEBP", "GIF"):
        assert decode_image(encode(Image.fromarray(COLORS[..., :3]), form), MAX).shape == (21, 34, 3)


def test_more_data_than_pixels_is_not_kept() -> None:
    stream = zlib.compressobj(9)
    packed = b"".join(stream.compress(bytes(1 << 20)) for _ in range(64)) + stream.flush()  # 64 MiB of zeros
    chunks = [(b"IDAT", zlib.compress(bytes(9 * 8)))]
    np.testing.assert_array_equal(decode_image(png(8, 8, (b"IDAT", packed)), MAX), np.zeros((8, 8, 3)))
    for extra in ((b"zTXt", b"a\0\0" + packed), (b"iCCP", b"a\0\0" + packed)):
        tracemalloc.start()
        with suppress(CorruptSample):
            decode_image(png(8, 8, extra, *chunks), MAX)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x80\x04K\x01.", "is not JPEG, PNG, WebP or GIF"),
        (b"<svg/>", "is not JPEG, PNG, WebP or GIF"),
        (encode(Image.fromarray(COLORS[..., :3]), "TIFF"), "is not JPEG, PNG, WebP or GIF"),
        (b"\xff\xd8\xff", "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"RIFF\0\0\0\0WEBP", "damaged WebP"),
        (png(0, 8, (b"IDAT", b"")), "cannot be read"),
    ],
    ids=["empty", "pickle", "svg", "tiff", "jpeg", "gif", "webp", "no pixels"],
)
def test_no_image(data: bytes, message: str) -> None:
    with pytest.raises(CorruptSample, match=message):
        image_size(data, MAX)
    with pytest.raises(CorruptSample):
        decode_image(data, MAX)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damage_anywhere_is_an_image_or_a_corrupt_sample(form: str) -> None:
    whole = encode(Image.fromarray(COLORS[..., :3]), form)
    rng = np.random.default_rng(1)
    for cut in rng.integers(0, len(whole) - 1, 60):
        damaged = bytearray(whole)
        damaged[cut : cut + 4] = rng.bytes(4)
        for data in (whole[:cut], bytes(damaged)):
            for read in (image_size, decode_image):
                with suppress(CorruptSample):  # and nothing else
                    read(data, MAX)
    with pytest.raises(CorruptSample):
        decode_image(whole[: len(whole) // 2], MAX)


def test_damaged_exif_is_no_damage() -> None:
    data = encode(Image.fromarray(COLORS[..., :3]), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert image_size(data, MAX) == (34, 21)
    assert decode_image(data, MAX).shape == (21, 34, 3)


def test_resize_crops_the_centre_and_antialiases() -> None:
    image = COLORS[..., :3]
    np.testing.assert_array_equal(resize(image, 21, 34), image)
    wide = np.random.default_rng(2).integers(0, 256, (20, 44, 3), np.uint8)  # at half the size, one column on each side goes
    expected = np.asarray(Image.fromarray(wide).resize((22, 10), Image.Resampling.LANCZOS))[:, 1:-1]
    np.testing.assert_array_equal(resize(wide, 10, 20), expected)
    tall = wide.transpose(1, 0, 2)
    expected = np.asarray(Image.fromarray(tall).resize((10, 22), Image.Resampling.LANCZOS))[1:-1]
    np.testing.assert_array_equal(resize(tall, 20, 10), expected)
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert np.abs(resize(board, 16, 16).astype(int)[2:-2, 2:-2] - 127.5).max() < 3  # not aliased to black or white
    assert resize(image, 300, 7).shape == (300, 7, 3)
