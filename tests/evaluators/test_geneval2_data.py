"""GenEval 2's file: the published one or none under its name, and no row that the official script would score in silence."""

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators.geneval2 import data
from evaluators.geneval2.data import DATA, Question, fetch, identify, load, sampling_rows
from rf_repro.core.errors import UserError
from tests.evaluators.geneval2_files import BICYCLES, make_rows, write_rows

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "own.jsonl", make_rows(12))


@pytest.fixture
def published(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, as if it were the published one."""
    monkeypatch.setattr(data, "DATA", replace(DATA, sha256=hashlib.sha256(file.read_bytes()).hexdigest()))
    return file


def test_rows_are_read_as_they_are(file: Path) -> None:
    items = load(str(file))
    assert len(items) == 12
    assert (items[0].prompt, items[0].atom_count) == (BICYCLES["prompt"], 7)
    assert items[0].questions[4] == Question("How many cows are in the image?", "three", "count")
    assert [len(item.questions) for item in items] == [len(row["vqa_list"]) for row in make_rows(12)]


def test_a_file_of_ones_own_is_never_the_official_one(file: Path) -> None:
    items = load(str(file))
    name = identify(items, str(file))
    assert name.startswith("custom-")
    assert identify(items, str(file)) == name
    assert identify(load(str(write_rows(file.with_name("other.jsonl"), make_rows(11)))), "other.jsonl") != name


def test_under_the_official_name_only_the_published_bytes_pass(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"own\.jsonl: not the prompt set 'geneval2': its SHA-256 begins .*, not 09233adbc9f8"):
        fetch(tmp_path / "kept", str(file))
    assert not (tmp_path / "kept").exists()
    with pytest.raises(UserError, match=r"geneval2_data\.jsonl: no such file; `rf-repro data fetch geneval2`"):
        load("geneval2", tmp_path)
    (tmp_path / DATA.file).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"is not GenEval 2's file: its SHA-256 begins .*; delete it, then `rf-repro data fetch"):
        load("geneval2", tmp_path)


def test_the_published_file_is_fetched_and_read(published: Path, tmp_path: Path) -> None:
    kept = fetch(tmp_path / "kept", str(published))
    assert kept == tmp_path / "kept" / "geneval2_data.jsonl"
    items = load("geneval2", tmp_path / "kept")
    assert items == load(str(published))
    assert identify(items, "geneval2") == "official"


@pytest.fixture
def server(file: Path) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/file"
        running.shutdown()


def test_a_download_tells_how_far_it_is(published: Path, server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    kept = fetch(tmp_path, server, lambda done, total: seen.append((done, total)))
    assert kept.read_bytes() == published.read_bytes()
    assert seen[-1] == (len(published.read_bytes()),) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("skills"), "must be an object with prompt, atom_count, vqa_list and skills"),
        (lambda row: row.update(prompt=" "), "prompt is ' ', must be a text"),
        (lambda row: row.update(atom_count=True), "atom_count is True, must be an integer >= 1"),
        (lambda row: row.update(atom_count=0), "atom_count is 0, must be an integer >= 1"),
        (lambda row: row["skills"].pop(), "vqa_list and skills must be lists of one length"),
        (lambda row: row.update(vqa_list=[], skills=[]), "of one length, at least 1"),
        (lambda row: row["skills"].__setitem__(2, "color"), r"vqa_list\[2\]: its skill is 'color', must be one of object, "),
        (lambda row: row["vqa_list"].__setitem__(1, ["Are they?"]), r"vqa_list\[1\]: is \['Are they\?'\], must be \[question, a"),
        (lambda row: row["vqa_list"][0].__setitem__(1, "11"), r"'How many bicycles .*' is '11', must be one or ten"),
        (lambda row: row["vqa_list"][1].__setitem__(1, "No"), r"'Are the bicycles white\?' is 'No', must be Yes"),
    ],
)
def test_rows_that_are_not_of_the_schema_are_refused(change: Change, message: str, tmp_path: Path) -> None:
    row = json.loads(json.dumps(BICYCLES))
    change(row)
    with pytest.raises(UserError, match=f"bad.jsonl:2: .*{message}|bad.jsonl:2: {message}"):
        load(str(write_rows(tmp_path / "bad.jsonl", [make_rows(2)[1], row])))


def test_what_holds_no_prompts_or_one_twice_is_refused(tmp_path: Path) -> None:
    for text, message in (("", "holds no prompt"), ("[]\n", "must be an object"), ("{\n", "bad.jsonl:1: not JSON")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(UserError, match=message):
            load(str(tmp_path / "bad.jsonl"))
    with pytest.raises(UserError, match=r"the prompt 'four white bicycles .*' occurs twice"):
        load(str(write_rows(tmp_path / "twice.jsonl", [BICYCLES, BICYCLES])))
    with pytest.raises(UserError, match="name a file in GenEval 2's schema, or geneval2"):
        load(str(tmp_path / "nowhere"))


def test_prompts_to_sample_are_known_by_their_schema(file: Path, tmp_path: Path) -> None:
    rows = sampling_rows(str(file))
    assert rows is not None
    assert rows[0] == {"tag": "geneval2", "include": [], "prompt": BICYCLES["prompt"]}
    assert len(rows) == 12
    geneval = tmp_path / "geneval.jsonl"
    geneval.write_text(json.dumps({"tag": "colors", "include": [], "prompt": "a red cow"}) + "\n")
    assert sampling_rows(str(geneval)) is None
    assert sampling_rows("official") is None
