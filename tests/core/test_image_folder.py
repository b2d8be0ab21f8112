import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_processes_that_share_a_folder_may_all_begin_it(tmp_path: Path) -> None:
    """In whatever order their looks and writes fall."""
    origin = Origin("base", "pixel", 0, "c" * 64, 3, "ema", 8, 8, 0, 1, "p", 4)
    image = Image.new("RGB", (8, 8))

    def share(number: int, folder: ImageFolder, together: threading.Barrier) -> None:
        together.wait()
        folder.begin(origin)
        folder.write_image(number, 0, 0, image)

    with ThreadPoolExecutor(8) as pool:
        for trial in range(20):
            folder, together = ImageFolder(tmp_path / str(trial)), threading.Barrier(8)
            for done in [pool.submit(share, number, folder, together) for number in range(8)]:
                done.result()
            assert folder.origin() == origin
    left = ImageFolder(tmp_path / "left")
    left.path.mkdir()
    (left.path / ".origin.json.abc.tmp").write_text("{")  # of a process that was killed as it wrote
    left.begin(origin)
    assert left.origin() == origin
