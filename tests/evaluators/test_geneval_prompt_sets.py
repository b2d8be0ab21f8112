"""Prompt sets: verified before they are put in place, from a server or a file, and recognised in folders of images."""

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.geneval.prompt_sets import PROMPT_SETS, PromptSet, default_folder, fetch, identify, load
from rf_repro.cli import main
from rf_repro.core.errors import UserError
from rf_repro.core.image_folder import ImageFolder

ROWS = [
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": f"a photo of a cow, {i} caf\u00e9s behind it"}
    for i in range(300)
]
CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
OFFICIAL = Path(__file__).resolve().parents[2].parent / "shared" / "geneval" / "evaluation_metadata.jsonl"
needs_official = pytest.mark.skipif(not OFFICIAL.exists(), reason="the official prompt file is not at hand")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        body = {"/other": CONTENT.replace(b"cow", b"dog"), "/longer": CONTENT + CONTENT}.get(self.path, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *arguments: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, server: str) -> PromptSet:
    """A small set published on the loopback server, in the official one's place."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    prompt_set = PromptSet("official", "small.jsonl", f"{server}/good", len(CONTENT), digest, "")
    monkeypatch.setitem(PROMPT_SETS, "official", prompt_set)
    return prompt_set


def test_a_good_download_is_put_in_place_with_progress(small: PromptSet, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    path = fetch(small, tmp_path / "a" / "b", progress=lambda done, total: reports.append((done, total)))
    assert path == tmp_path / "a" / "b" / "small.jsonl"
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["small.jsonl"]
    assert len(reports) > 1
    assert reports == sorted(set(reports))
    assert reports[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("cut", f"the connection ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("other", "not the prompt set 'official': its SHA-256 begins"),
        ("longer", "not the prompt set 'official': its SHA-256 begins"),
        ("absent", "the server answers 404 Not Found"),
    ],
)
def test_a_bad_download_is_one_line_and_leaves_nothing(
    page: str, message: str, small: PromptSet, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sets"
    address = f"{server}/{page}"
    assert main(["data", "fetch", "geneval", "--set", "official", "--from", address, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith(f"rf-repro: error: {address}: {message}")
    assert not any(tmp_path.iterdir())


def test_a_server_that_is_down_is_one_line(small: PromptSet, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/good"  # bound, but nobody listens
        with pytest.raises(UserError, match=r"cannot be downloaded \(.*refused.*\); try again, or .* give source=FILE"):
            fetch(replace(small, url=address), tmp_path / "sets")
    assert not any(tmp_path.iterdir())


def test_a_set_that_is_there_is_not_downloaded_again_and_a_wrong_one_is_replaced(small: PromptSet, tmp_path: Path) -> None:
    path = fetch(small, tmp_path)
    written = path.stat().st_mtime_ns
    nowhere = replace(small, url="http://127.0.0.1:1/")
    assert fetch(nowhere, tmp_path) == path
    assert path.stat().st_mtime_ns == written
    path.write_text("damaged")
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch(nowhere, tmp_path)
    assert path.read_text() == "damaged"
    assert fetch(small, tmp_path).read_bytes() == CONTENT


def test_a_local_file_or_folder_passes_the_same_check(
    small: PromptSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "copies"
    source.mkdir()
    (source / "small.jsonl").write_bytes(CONTENT)
    (source / "wrong.jsonl").write_bytes(CONTENT[:-1])
    assert fetch(small, tmp_path / "1", str(source)).read_bytes() == CONTENT
    assert fetch(small, tmp_path / "2", str(source / "small.jsonl")).read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"wrong\.jsonl: not the prompt set 'official'"):
        fetch(small, tmp_path / "3", str(source / "wrong.jsonl"))
    with pytest.raises(UserError, match=r"absent\.jsonl: No such file or directory; name a file or folder"):
        fetch(small, tmp_path / "3", str(source / "absent.jsonl"))
    assert main(["data", "fetch", "geneval", "--from", str(source / "small.jsonl"), "--out", str(tmp_path / "3")]) == 2
    assert "is not a folder, so it cannot hold 2 sets; name one by --set" in capsys.readouterr().err
    assert not (tmp_path / "3").exists()


def test_sets_are_kept_in_the_users_cache(
    small: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["data", "fetch", "geneval", "--set", "official"]) == 0
    path = tmp_path / "cache" / "rf_repro" / "geneval" / "small.jsonl"
    assert " ".join(capsys.readouterr().out.split()) == " ".join(["official", *str(path).split(), "SHA-256", "verified"])
    assert load("official") == load(str(path)) == ROWS
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "rf_repro" / "geneval"


def test_load_refuses_what_is_missing_changed_or_no_metadata(small: PromptSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small\.jsonl: no such prompt set; `rf-repro data fetch geneval --set official`"):
        load("official", tmp_path)
    with pytest.raises(UserError, match="nothing: no such prompt set; name a file, or official, bagel-long"):
        load("nothing")
    (tmp_path / "small.jsonl").write_bytes(CONTENT.replace(b"cow", b"dog"))
    with pytest.raises(UserError, match=r"not the prompt set 'official'.*; delete it, then"):
        load("official", tmp_path)
    path = tmp_path / "own.jsonl"
    for text, message in [
        (json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:30], "own.jsonl:2: not an object of GenEval metadata"),
        ("[1]\n", "own.jsonl:1: not an object of GenEval metadata"),
        (json.dumps({**ROWS[0], "include": None}), "own.jsonl:1: include is None, must be a list of objects"),
        (json.dumps({"tag": "colors"}), "own.jsonl:1: prompt is None"),
        ("\n", "holds no prompt"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(str(path))


def test_a_set_is_known_by_its_rows_in_any_order_of_fields(small: PromptSet, tmp_path: Path) -> None:
    assert identify(ROWS) == "official"
    assert identify([dict(reversed(row.items())) for row in ROWS]) == "official"
    folder = ImageFolder(tmp_path)  # writes the fields sorted by name
    for index, row in enumerate(ROWS):
        folder.write_prompt(index, row)
    assert identify([row for _, row in folder.prompts()]) == "official"


def test_another_set_gets_a_name_of_its_own(small: PromptSet) -> None:
    others = [ROWS[:-1], ROWS[::-1], [{**ROWS[0], "prompt": "a cow"}, *ROWS[1:]], [{**row, "id": 1} for row in ROWS]]
    names = [identify(rows) for rows in others]
    assert len(set(names)) == len(others)
    for name in names:
        label, _, digest = name.partition("-")
        assert (label, len(digest)) == ("custom", 8)
    assert identify([dict(reversed(row.items())) for row in others[0]]) == names[0]


@needs_official
def test_the_official_file_passes_and_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "fetch", "geneval", "--set", "official", "--out", str(tmp_path), "--from"]
    assert main([*arguments, str(OFFICIAL)]) == 0
    rows = load("official", tmp_path)
    assert len(rows) == 553
    assert identify(rows) == "official"
    assert identify([json.loads(json.dumps(row, sort_keys=True)) for row in rows]) == "official"
    assert identify(rows[1:]).startswith("custom-")
