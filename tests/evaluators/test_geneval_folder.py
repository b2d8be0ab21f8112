"""Folders of any model's images: what is scored, and that nothing amiss goes unsaid."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluators.geneval.folder import Scan, decode, scan
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from tests.evaluators.drawn import PROMPTS, RED_COW_BLUE_DOG, TWO_COWS, write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", [[RED_COW_BLUE_DOG, TWO_COWS]] * len(PROMPTS))


def look(root: Path, **rest: Any) -> Scan:
    return scan(root, **{"num_prompts": len(PROMPTS), "images_per_prompt": 2, **rest})


def said(found: Scan) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in found.problems]


def test_a_complete_folder_has_no_problem(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = look(root, progress=lambda done, total: seen.append((done, total)))
    assert (found.problems, found.expected, found.prompts) == ((), 12, dict(enumerate(PROMPTS)))
    assert [(image.prompt_id, image.sample) for image in found.images] == [(p, s) for p in range(6) for s in range(2)]
    assert {image.size for image in found.images} == {RED_COW_BLUE_DOG.size}
    assert [image.sha256 for image in found.images] == [file_sha256(image.path) for image in found.images]
    assert seen == [(n, 12) for n in range(1, 13)]
    assert look(root, reference=PROMPTS) == found


def test_everything_amiss_is_named(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    (root / "grids").mkdir()
    (root / "00006").mkdir()
    (root / "00000" / "samples" / "0001.png").rename(root / "00000" / "samples" / "0001.jpg")
    (root / "00001" / "samples" / "0000.png").write_bytes((root / "00001" / "samples" / "0000.png").read_bytes()[:60])
    (root / "00002" / "samples" / "0002.png").write_bytes((root / "00002" / "samples" / "0000.png").read_bytes())
    (root / "00003" / "metadata.jsonl").unlink()
    (root / "00004" / "metadata.jsonl").write_text("{")
    (root / "00005").rename(root / "5x")
    found = look(root)
    assert sorted(said(found)) == [
        ("damaged image", "00001/samples/0000.png"),
        ("extra image", "00002/samples/0002.png"),
        ("foreign file", "00000/samples/0001.jpg"),
        ("foreign file", "notes.txt"),
        ("missing image", "00000/samples"),
        ("missing metadata", "00003/metadata.jsonl"),
        ("missing prompt", "00005"),
        ("unknown prompt", "00006"),
        ("wrong folder", "5x"),
        ("wrong folder", "grids"),
        ("wrong metadata", "00004/metadata.jsonl"),
    ]
    assert found.expected == 12
    assert [(image.prompt_id, image.sample) for image in found.images] == [(0, 0), (1, 1), (2, 0), (2, 1)]


def test_what_the_official_script_would_score_by_accident_is_said(root: Path) -> None:
    (root / "00000" / "samples" / "0000.png.bak").write_bytes(b"old")
    assert "the official script would score it" in str(look(root).problems[0])


def test_metadata_of_another_prompt_set_is_found_and_its_images_left_out(root: Path) -> None:
    other = [*PROMPTS[:3], {**PROMPTS[3], "prompt": "a cow that is red"}, *PROMPTS[4:]]
    found = look(root, reference=other)
    assert said(found) == [("wrong metadata", "00003/metadata.jsonl")]
    assert "'a cow that is red'" in found.problems[0].message
    assert {image.prompt_id for image in found.images} == {0, 1, 2, 4, 5}
    assert found.prompts == dict(enumerate(other))


def test_missing_prompts_are_named_where_the_set_is_known(root: Path) -> None:
    (root / "00004").rename(root.parent / "elsewhere")
    assert "a cow left of a dog" not in str(look(root).problems[0])
    assert "a cow left of a dog" in str(look(root, reference=PROMPTS).problems[0])


def test_impossible_metadata_is_a_problem(root: Path) -> None:
    bad = {**PROMPTS[3], "include": [{"class": "cow", "count": 1, "color": "cyan"}]}
    (root / "00003" / "metadata.jsonl").write_text(json.dumps(bad))
    assert "color is 'cyan'" in look(root).problems[0].message
    (root / "00003" / "metadata.jsonl").write_text("[]")
    assert "must be a JSON object" in look(root).problems[0].message


def test_images_are_upright_and_their_bytes_are_held_to(root: Path) -> None:
    sideways = RED_COW_BLUE_DOG.transpose(Image.Transpose.ROTATE_90)
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(root / "00000" / "samples" / "0000.png", exif=exif)
    image = look(root).images[0]
    assert image.size == RED_COW_BLUE_DOG.size
    assert decode(image).tobytes() == RED_COW_BLUE_DOG.tobytes()
    TWO_COWS.save(image.path)
    with pytest.raises(UserError, match="changed while it was being scored"):
        decode(image)


def test_no_folder_and_no_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        look(tmp_path / "nowhere")
    (tmp_path / "0000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"GenEval's layout is 00000/metadata\.jsonl"):
        look(tmp_path)


def test_damage_behind_right_checksums_is_found_too(root: Path) -> None:
    """A PNG whose pixels are garbage, with the checksum of every chunk right."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 48, 32, 8, 2, 0, 0, 0)
    torn = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"garbage") + chunk(b"IEND", b"")
    (root / "00000" / "samples" / "0001.png").write_bytes(torn)
    assert said(look(root)) == [("damaged image", "00000/samples/0001.png")]
