"""Files of others have one way in: no room but those listed calls a reader that takes whatever a file says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rf_repro", "ablations", "evaluators", "slurm", "reports", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Module -> what in it reads without limits, or runs what it reads.
READERS = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"load", "load_all", "safe_load", "safe_load_all", "full_load", "unsafe_load", "compose", "parse"},
    "csv": {"reader", "DictReader"},
    "PIL.Image": {"open"},
    "gzip": {"open", "decompress", "GzipFile"},
    "zlib": {"decompress"},
    "bz2": {"open", "decompress"},
    "lzma": {"open", "decompress"},
    "ast": {"literal_eval"},
    "pickle": {"load", "loads", "Unpickler"},
    "tomllib": {"load", "loads"},
    "configparser": {"ConfigParser", "RawConfigParser"},
    "pandas": {"read_csv", "read_json", "read_pickle", "read_table"},
    "xml.etree.ElementTree": {"parse", "fromstring"},
}
ROOMS = {
    "rf_repro/core/untrusted/json_text.py": {"json.loads"},  # the guarded reader of JSON
    "rf_repro/core/untrusted/csv_text.py": {"csv.reader"},  # that of tables
    "rf_repro/core/strict_yaml.py": {"yaml.load"},  # that of YAML, with a loader of its own
    "rf_repro/core/reading.py": {"gzip.GzipFile"},  # read no further than a file may expand to
    "evaluators/understanding/literals.py": {"ast.literal_eval"},  # lists as Python prints them, of bounded size and depth
    "rf_repro/compute/ranks.py": {"json.loads"},  # what our other ranks send
    "rf_repro/experiment/measure.py": {"json.load"},  # our own parent's question, on standard input
    "rf_repro/launch/machine.py": {"json.loads"},  # our own child's answer
    "evaluators/vlm/ask.py": {"json.loads"},  # of `json.dumps` in the same line
}


def readers(source: str) -> set[str]:
    """What a source names of `READERS`, as MODULE.NAME, by whatever name it was imported."""
    tree, modules, found = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in READERS.get(node.module or "", ()):
                    found.add(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, _, rest = ast.unparse(node.value).partition(".")
            module = ".".join(filter(None, (modules.get(head, head), rest)))
            if node.attr in READERS.get(module, ()):
                found.add(f"{module}.{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_others_are_read_in_their_rooms_alone(path: Path) -> None:
    assert readers(path.read_text(encoding="utf-8")) <= ROOMS.get(path.relative_to(ROOT).as_posix(), set())


def test_every_room_is_in_use() -> None:
    assert {name: readers((ROOT / name).read_text(encoding="utf-8")) for name in ROOMS} == ROOMS


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import json\njson.loads(text)", {"json.loads"}),
        ("import json as j\nj.load(file)", {"json.load"}),
        ("from json import loads as read\nread(text)", {"json.loads"}),
        ("import yaml\nyaml.safe_load(text)", {"yaml.safe_load"}),
        ("from csv import DictReader", {"csv.DictReader"}),
        ("from PIL import Image\nImage.open(path)", {"PIL.Image.open"}),
        ("import PIL.Image\nPIL.Image.open(path)", {"PIL.Image.open"}),
        ("from PIL import Image as I\nread = I.open", {"PIL.Image.open"}),  # kept under another name, to be called later
        ("import json\njson.dumps(value)\nopen(path)\nImage.new('RGB', (1, 1))", set()),
    ],
)
def test_the_walk_sees_what_it_forbids(source: str, found: set[str]) -> None:
    assert readers(source) == found
