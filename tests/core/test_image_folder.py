import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.image_folder import ImageFolder, Origin


def test_layout_manifest_and_digests(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "samples")
    entries = []
    for prompt in (0, 12):
        folder.write_prompt(prompt, {"prompt": f"prompt {prompt}", "tag": "colors"})
        entries += [folder.write_image(prompt, i, 100 + i, Image.new("RGB", (4, 4), (prompt, i, 0))) for i in range(2)]
    assert not folder.is_complete()
    with pytest.raises(UserError, match="4 images of 5"):
        folder.finish(entries, expected=5)
    assert not folder.is_complete()
    folder.finish(entries, expected=4)
    assert folder.is_complete()
    assert folder.entries() == entries
    assert (tmp_path / "samples" / "00012" / "samples" / "0001.png").exists()  # GenEval's official layout
    assert [(prompt, data["prompt"]) for prompt, data in folder.prompts()] == [(0, "prompt 0"), (12, "prompt 12")]
    for entry in folder.entries():
        assert entry.sha256 == file_sha256(folder.image_path(entry.prompt_id, entry.sample))
        with Image.open(folder.image_path(entry.prompt_id, entry.sample)) as image:
            assert image.getpixel((0, 0)) == (entry.prompt_id, entry.sample, 0)


def test_shares_that_begin_at_the_same_moment_find_no_foreign_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Origin("tiny", "pixel", 0, "hash", 3, "ema", 24, 24, 0, 1, "prompts", 4)
    other, mine = ImageFolder(tmp_path), ImageFolder(tmp_path)
    (tmp_path / ".origin.json.x1.tmp").write_text("{")  # the other is about to write it
    mine.begin(origin)
    mine.origin_path.unlink()
    listed = Path.iterdir

    def late(self: Path) -> Iterator[Path]:
        """The other begins, and writes an image, while this one looks."""
        other.origin_path.write_text(json.dumps(asdict(origin)))
        (tmp_path / "00000").mkdir(exist_ok=True)
        return listed(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", late)
        mine.begin(origin)
    mine.origin_path.unlink()
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        mine.begin(origin)
