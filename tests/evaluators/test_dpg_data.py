"""DPG-Bench's file: known by git's hash, from a server or a file, and read whole."""

import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.dpg import data
from rf_repro.cli import main
from rf_repro.core.errors import UserError
from tests.evaluators.dpg_world import csv_text, simple_rows

CONTENT = csv_text(simple_rows()).encode()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small file in the published one's place, and a cache folder of the test's own."""
    monkeypatch.setattr(data, "BLOB", data.git_blob_hash(CONTENT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()  # no length announced
            self.wfile.write(CONTENT if self.path == "/good" else CONTENT[:-1])

        def log_message(self, *arguments: object) -> None:
            """Keeps the test's output quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("content", [b"", b"a\n", CONTENT, bytes(range(256)) * 300])
def test_the_hash_is_gits(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = subprocess.run(["git", "hash-object", "--no-filters", str(path)], capture_output=True, text=True, check=True)
    assert data.git_blob_hash(content) == done.stdout.strip()


def test_the_published_identity() -> None:
    assert data.BLOB == "98457fc9901943f51ff9a30367250fc292533bed"
    assert data.git_blob_hash(CONTENT) != data.BLOB
    assert data.URL.endswith("TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv")


@pytest.mark.usefixtures("published")
def test_fetched_from_a_server_or_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/cut: not DPG-Bench's dpg_bench.csv: its git hash is [0-9a-f]{40}, not [0-9a-f]{40}"):
        data.fetch(tmp_path / "out", f"{server}/cut")
    assert not (tmp_path / "out").exists()
    assert data.fetch(tmp_path / "out", f"{server}/good").read_bytes() == CONTENT
    assert data.fetch(tmp_path / "out", "/no/such/source").read_bytes() == CONTENT  # it is there


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("place", ["", "dpg_bench"])
def test_the_command_takes_a_checkout_and_compares_its_prompts(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ELLA" / place
    (folder / "prompts").mkdir(parents=True)
    (folder / "dpg_bench.csv").write_bytes(CONTENT)
    benchmark = data.parse(CONTENT, "made", "made")
    for item_id, prompt in benchmark.prompts.items():
        (folder / "prompts" / f"{item_id}.txt").write_text(prompt + "\n", encoding="utf-8")
    assert main(["data", "fetch", "dpg", "--from", str(tmp_path / "ELLA")]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'cache' / 'rf_repro' / 'dpg' / 'dpg_bench.csv'}  git's hash verified, 3 prompts, 9 questions" in said
    assert "not as in the CSV" not in said
    (folder / "prompts" / "256.txt").write_text("another prompt", encoding="utf-8")
    assert main(["data", "fetch", "dpg", "--from", str(tmp_path / "ELLA")]) == 0
    assert "1 prompts are not as in the CSV, whose texts are used; first 256" in capsys.readouterr().out
    assert data.load().name == "dpg-bench"
    (tmp_path / "other.csv").write_bytes(CONTENT + b"\n")
    assert data.load(tmp_path / "other.csv").name == f"custom-{data.git_blob_hash(CONTENT + bytes([10]))[:8]}"


def test_rows_are_read_whole_and_in_order() -> None:
    rows = [
        ("b", 7, "0", "global -", "Is it?"),
        ("a", 1, "0", "entity - whole", "Is it a?"),
        ("b", 2, " 7 , 0", "entity - part", "Is b?"),
    ]
    benchmark = data.parse(csv_text(rows).encode("utf-8-sig"), "made", "made")
    assert list(benchmark.items) == ["b", "a"]
    assert [(q.id, q.parents, q.category, q.text) for q in benchmark.items["b"]] == [
        (7, (), "global -", "Is it?"), (2, (7,), "entity - part", "Is b?"),
    ]  # fmt: skip
    assert benchmark.prompts["a"] == 'A "dense", long prompt\nof a.'
    assert data.prompt_rows(benchmark)[1] == {"tag": "dpg", "include": [], "prompt": benchmark.prompts["a"], "item_id": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("dependency", "depends"), "has no column 'dependency'"),
        (lambda text: text.replace(",1,0,", ",one,0,", 1), "row 1: proposition_id and dependency must be whole numbers"),
        (lambda text: text.replace(",2,1,", ",2,,", 1), "row 2: dependency is empty"),
        (lambda text: text.replace(",3,2,", ',3,"2,9",', 1), "partiprompts97: question 3 depends on 9, which is not there"),
        (lambda text: text.split("\n")[0] + "\n", "holds no question"),
        (lambda text: text + "short,row\n", "row 10: proposition_id is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(change: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text(change(CONTENT.decode()), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        data.load(path)


@pytest.mark.usefixtures("published")
def test_a_file_that_is_not_there_or_was_changed() -> None:
    with pytest.raises(UserError, match="no such file; `rf-repro data fetch dpg`"):
        data.load()
    path = data.default_folder() / data.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT.replace(b"Is", b"Was"))
    with pytest.raises(UserError, match="not DPG-Bench's file"):
        data.load()
