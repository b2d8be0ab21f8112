from pathlib import Path

import pytest
from PIL import Image

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from rf_repro.core.image_folder import ImageFolder


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
