"""A report takes away what a report wrote, and nothing else."""

import json
import shutil

import pytest

from rf_repro.core.errors import UserError
from rf_repro.core.hashing import file_sha256
from tests.reports.test_build import report, write_grid


def test_no_manifest_is_trusted_with_a_deletion(tmp_path):
    """Whatever it lists: above or elsewhere, through links, of other names, folders, and files that hold something else."""
    write_grid(tmp_path / "runs")
    out, victim = tmp_path / "out", tmp_path / "victim.csv"
    report(tmp_path)
    victim.write_text("kept")
    digest = file_sha256(victim)
    (out / "tables" / "link.csv").symlink_to(victim)
    (out / "tables" / "folder.csv").mkdir()
    (out / "tables" / "changed.csv").write_text("mine now")
    (out / "tables" / "gone.csv").write_text("kept")
    names = ["../victim.csv", str(victim), "tables/../../victim.csv", "tables/link.csv", "tables/folder.csv",
             "tables/changed.csv", "tables/gone.csv", "run.json", "tables/.csv",
             "figures/../../victim.csv", "tables/\n.csv"]  # fmt: skip
    for listed in (names, dict.fromkeys(names, digest), {"tables/changed.csv": 5}, 5, None):
        (out / "files.json").write_text(json.dumps(listed))
        report(tmp_path)
        assert victim.read_text() == "kept"
        assert (out / "tables" / "folder.csv").is_dir()
        assert (out / "tables" / "link.csv").is_symlink()
        assert (out / "tables" / "changed.csv").exists()
    assert not (out / "tables" / "gone.csv").exists()  # named and holding what a report wrote
    shutil.move(out / "tables", tmp_path / "elsewhere")
    (out / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="tables is a link to another folder; remove the link or"):
        report(tmp_path)
