"""`rf-repro data inspect`: what it prints agrees with the packs; mistakes are one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rf_repro.cli import main
from tests.data.tiny_shards import png, sample, write_source, write_tar
from tests.data.tiny_tokenizer import write_tiny_tokenizer
from tests.test_cli_data import test_help_loads_nothing_heavy_and_its_example_parses as help_is_light

STAGE = "stages.joint."


def test_help_loads_nothing_heavy_and_its_example_parses() -> None:
    help_is_light(["data", "inspect"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "shards", "generation", 2, 60)
    write_source(tmp_path / "shards", "understanding", 2, 30, first=1000)
    write_source(tmp_path / "shards", "text", 1, 20, first=2000)
    return tmp_path


def settings(folder: Path) -> list[str]:
    values = {
        "data.tokenizer": folder / "tokenizer", "model.decoder.vocab_size": write_tiny_tokenizer(folder / "tokenizer") + 1,
        "data.filters.min_side": 8, "model.encoder.patch_size": 4, "model.pixel.patch_size": 4, "data.caption_tokens": 40,
        "data.answer_tokens": 50, STAGE + "tokens_per_rank": 300, STAGE + "min_image_size": 16, STAGE + "max_image_size": 32,
    }  # fmt: skip
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def sources(folder: Path) -> list[dict[str, object]]:
    tasks = ("generation", "understanding", "text")
    return [{"name": f"my-{task}", "path": f"shards/{task}-*.tar", "format": "webdataset", "task": task} for task in tasks]


@pytest.mark.parametrize("as_mapping", [False, True])
def test_it_says_what_packs_hold(folder: Path, capsys: pytest.CaptureFixture[str], as_mapping: bool) -> None:
    listed = sources(folder)
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": listed} if as_mapping else listed))
    assert main(["data", "inspect", "--data", "sources.yaml", "--packs", "5", "--out", "seen", *settings(folder)]) == 0
    printed = capsys.readouterr().out
    assert "packs of 300 tokens, longer sides 16 to 32 px, 128 packs a step" in printed
    assert re.search(
        r"my-generation: generation, webdataset, 100\.0% of the samples of generation; .*shards/generation-\*\.tar", printed
    )
    assert re.search(r"my-text: text, webdataset, 20\.0% of the samples of understanding; ", printed)
    assert "understanding: 105 tokens of a pack; generation: 195 tokens of a pack\n" in printed
    packs = re.findall(r"pack (\d): (\d+) samples, (\d+) of 300 tokens \(([\d.]+)%\)\n((?:  .*\n)+)", printed)
    assert [pack[0] for pack in packs] == list("12345")
    total = 0
    for _, count, tokens, full, lines in packs:
        rows = re.findall(r"  (\w+) +(\d+) samples +(\d+) tokens", lines)
        assert sum(int(row[1]) for row in rows) == int(count)
        assert sum(int(row[2]) for row in rows) == int(tokens)
        assert float(full) == pytest.approx(int(tokens) / 3, abs=0.06)
        total += int(count)
    read = [int(number) for number in re.findall(r"my-\w+: \d shards, (\d+) samples read, corrupt: 0", printed)]
    assert len(read) == 3
    assert sum(read) >= total
    assert re.search(
        r"generation my-generation/generation-00\d\.tar:\d+: <\|im_start\|>caption \d+ .*<\|vision_start\|>", printed
    )
    assert re.search(r"understanding my-under.*: '<\|vision_end\|><\|im_start\|>user\\nquestion \d+<\|im_end\|>", printed)
    assert re.search(r"text my-text/.*: text \d+ .*<\|endoftext\|>", printed)
    assert printed.splitlines()[-1] == "seen/contact_sheet.png"
    sheet = np.asarray(Image.open(folder / "seen" / "contact_sheet.png"))
    assert (sheet[2, 2] == (*sheet[2, 2][:2], 77)).all()  # the first image's colour
    assert (sheet == 255).any()


def test_files_of_one_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["data", "inspect", "shards/generation-000.tar", "shards/generation-001.tar", "--packs", "2", *settings(folder)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "shards0: generation, webdataset, 50.0% of the samples of generation; shards/generation-000.tar" in printed
    assert "understanding" not in printed
    assert (
        main(["data", "inspect", "shards/understanding-*.tar", "--task", "understanding", "--packs", "1", *settings(folder)]) == 0
    )
    assert "100.0% of the samples of understanding" in capsys.readouterr().out


def test_what_is_left_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    samples = [sample("generation", value, rng) for value in range(40)]
    samples[::4] = [[("png", png(30, 4, 1)), ("txt", b"wide")]] * 10
    samples[1::4] = [[("png", b"no image"), ("txt", b"hostile \x1b[31m")]] * 10
    write_tar(folder / "bad.tar", samples)
    arguments = ["data", "inspect", "bad.tar", "--packs", "6", *settings(folder)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    found = re.search(r"shards0: 1 shards, (\d+) samples read, corrupt: (\d+), image too small: (\d+)\n((?:  .*\n)+)", printed)
    assert found
    *named, limit = found[4].splitlines()
    assert len(named) == min(int(found[2]), 20) >= 2
    assert all(re.match(r"  bad\.tar:\d+: its image is not JPEG", line) for line in named)
    assert limit == "  shards0: more than data.max_corrupt=0.01 of it is corrupt; training would stop"
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "SHARDS or --data: name what to look at"),
        ("absent.tar", "data.sources.shards0.path='absent.tar': no shards there"),
        ("absent", "absent: no shards; they end in .tar"),
        ("shards/text-000.tar --data sources.yaml", "give one of them"),
        ("--data absent.yaml", "--data absent.yaml: no such file"),
        ("--data bad.yaml", "--data bad.yaml: must be a list of sources"),
        ("--data sources.yaml", "data.sources[0]: lacks name"),
        ("shards/text-000.tar --task text --stage fourth", "fourth"),
        ("shards/text-000.tar --task text --packs 0", "--packs 0: must be >= 1"),
        ("shards/text-000.tar --task text --out seen", "--out: there is no image to show"),
        ("shards/text-000.tar --scale tiny", "--scale tiny: its data is scenes, drawn and not stored"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    (folder / "sources.yaml").write_text("- {path: shards}\n")
    (folder / "bad.yaml").write_text("sources: 3\n")
    given = arguments.split()
    assert main(["data", "inspect", *given, *(settings(folder) if "tiny" not in given else [])]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rf-repro: error: ")
    assert message in line


def test_the_scenes_world_as_shards_gives_the_same_packs_in_every_format(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for shard_format in ("webdataset", "parquet", "jsonl"):
        listed = []
        for task in ("generation", "understanding", "text"):
            out = f"{shard_format}/{task}"
            assert main(["data", "scenes", "--out", out, "--num", "24", "--format", shard_format, "--task", task]) == 0
            listed += yaml.safe_load(capsys.readouterr().out)["sources"]
        (folder / "sources.yaml").write_text(yaml.safe_dump(listed))
        assert main(["data", "inspect", "--data", "sources.yaml", "--packs", "3", *settings(folder)]) == 0
        text = capsys.readouterr().out
        assert "corrupt: 0" in text
        assert re.search(r"understanding scenes-.*<\|im_start\|>assistant\\n[^<]+<\|im_end\|>", text)
        printed[shard_format] = re.sub(r"webdataset|parquet|jsonl|\.tar", "FORMAT", text).replace(".FORMAT", "FORMAT")
    assert len(set(printed.values())) == 1
