"""Scenes as shards: read back they are the world's own arrays and texts; written again, or after a kill, the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from rf_repro.cli import main
from rf_repro.config.data_schema import ScenesConfig, SourceConfig
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.scenes.questions import SceneQuestions
from rf_repro.data.scenes.world import ScenesWorld
from rf_repro.data.scenes_shards import FORMATS, TASKS, Format, ScenesExport, Task, export_scenes
from rf_repro.data.shards import RawSample, list_shards, read_shard, shard_length
from rf_repro.data.shards.images import decode_image, resize
from tests.killing import kill_at

SMALL = ScenesConfig(num_train=400)


def read(source: SourceConfig) -> list[RawSample]:
    found = [sample for path in list_shards(source) for sample in read_shard(path, source)]
    assert all(isinstance(sample, RawSample) for sample in found)
    return [sample for sample in found if isinstance(sample, RawSample)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shard_format", FORMATS)
def test_shards_hold_the_worlds_own_scenes(shard_format: Format, task: Task, tmp_path: Path) -> None:
    export = ScenesExport(SMALL, num=120, start=30, shard_format=shard_format, task=task, shard_size=50)
    assert export_scenes(export, tmp_path) == 3
    source = SourceConfig("scenes", str(tmp_path), shard_format, task)
    assert [shard_length(path, source) for path in list_shards(source)] == [50, 50, 20]
    samples = read(source)
    indices = np.arange(30, 150)
    if task == "understanding":
        asked = SceneQuestions(SMALL).train(indices)
        images = asked.images
        assert [[(turn.question, turn.answer) for turn in sample.turns] for sample in samples] == [
            [pair] for pair in zip(asked.questions, asked.answers, strict=True)
        ]
    else:
        scenes = ScenesWorld(SMALL).train(indices)
        images = scenes.images
        assert [sample.text for sample in samples] == (scenes.captions if task == "generation" else scenes.dense_captions())
    if task == "text":
        assert all(sample.image is None for sample in samples)
    else:
        decoded = np.stack([decode_image(sample.image or b"", 10_000) for sample in samples])
        np.testing.assert_array_equal(decoded, images)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_second_run_completes_to_the_same_bytes(shard_format: Format, tmp_path: Path) -> None:
    export = ScenesExport(SMALL, num=100, shard_format=shard_format, shard_size=40)
    told: list[tuple[int, int]] = []
    assert export_scenes(export, tmp_path / "a", lambda done, total: told.append((done, total))) == 3
    assert told == [(40, 100), (80, 100), (100, 100)]
    whole = files(tmp_path / "a")
    shards = [path for path, _ in export.shards(tmp_path / "a")]
    shards[1].unlink()  # the images of JSON lines may be there before their lines
    kept = shards[0].stat().st_mtime_ns
    assert export_scenes(export, tmp_path / "a") == 1
    assert shards[0].stat().st_mtime_ns == kept
    assert files(tmp_path / "a") == whole
    assert export_scenes(export, tmp_path / "b") == 3
    assert files(tmp_path / "b") == whole


@pytest.mark.slow
@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_kill_leaves_whole_shards_and_the_next_run_goes_on(
    shard_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "scenes", "--num", "600", "--shard-size", "60", "--format", shard_format, "--out"]
    source = SourceConfig("scenes", str(tmp_path / "killed"), shard_format)  # type: ignore[arg-type]
    kill_at(str(tmp_path / "killed" / "generation*"), 5, main, [*command, str(tmp_path / "killed")])
    found = list_shards(source)
    assert len(found) == (2 if shard_format == "jsonl" else 4)  # images in a folder of their own come before the lines
    assert len(read(source)) == 60 * len(found)
    assert main([*command, str(tmp_path / "killed")]) == 0
    printed = capsys.readouterr()
    assert f"600 samples, 10 shards, {len(found)} of them were there already" in printed.out
    assert printed.err == ""
    assert main([*command, str(tmp_path / "whole")]) == 0
    after = files(tmp_path / "killed")  # what was not finished has a hidden name
    shown = {name: data for name, data in after.items() if not any(part.startswith(".") for part in name.split("/"))}
    assert shown == files(tmp_path / "whole")


def test_another_size_and_harder_worlds(tmp_path: Path) -> None:
    hard = replace(SMALL, image_size=48, radius=8.0, min_distance=20.0, rotation=0.4, background="textured")
    export_scenes(ScenesExport(hard, num=10, image_size=64), tmp_path)
    samples = read(SourceConfig("scenes", str(tmp_path)))
    images = ScenesWorld(hard).train(np.arange(10)).images
    for sample, image in zip(samples, images, strict=True):
        np.testing.assert_array_equal(decode_image(sample.image or b"", 10_000), resize(image, 64, 64))


def test_a_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    export = ScenesExport(SMALL, num=20)
    export_scenes(export, tmp_path / "scenes")
    before = files(tmp_path / "scenes")
    others = (
        replace(export, num=21), replace(export, start=1), replace(export, shard_size=10), replace(export, task="text"),
        replace(export, image_size=32), replace(export, shard_format="jsonl"), replace(export, config=replace(SMALL, seed=1)),
    )  # fmt: skip
    for other in others:
        with pytest.raises(UserError, match="holds other scenes"):
            export_scenes(other, tmp_path / "scenes")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="is not empty and has no"):
        export_scenes(export, tmp_path / "photos")
    assert files(tmp_path / "scenes") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num 0", "--num 0: must be >= 1"),
        ("--num 1 --shard-size 0", "--shard-size 0: must be >= 1"),
        ("--num 1 --start -1", "--start -1: must be >= 0"),
        (
            "--num 40001",
            "--start 0 --num 40001: this world has data.scenes.num_train=40000 scenes; ask for fewer",
        ),
        ("--num 1 --format tar", "invalid choice: 'tar'"),
        ("--num 1 --set model.decoder.width=64", "--set model.decoder.width: has no effect on scenes; only data.scenes.* has"),
        ("--num 1 --set data.scenes.radius=90.0", "data.scenes"),
        ("--num 1 --out file/below", "--out file/below: "),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"")
    command = ["data", "scenes", "--out", "out", *arguments.split()]
    try:
        status = main(command)
    except SystemExit as end:
        status = int(str(end.code))
    [line] = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line.startswith("rf-repro: error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_printed_source_is_one_that_a_config_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scenes"
    changes = ["--set", "data.scenes.image_size=32", "--set", "data.scenes.seed=3"]
    assert (
        main(["data", "scenes", "--out", str(out), "--num", "30", "--task", "understanding", "--format", "parquet", *changes])
        == 0
    )
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[0] == f"# {out}  30 samples, 1 shards, 0 of them were there already"
    config: ExperimentConfig = apply_overrides(get_scale("paper"), {"data.sources": yaml.safe_load(printed.out)["sources"]})
    [source] = config.data.sources
    assert source == SourceConfig("scenes-understanding", str(out), "parquet", "understanding")
    images = SceneQuestions(replace(ScenesConfig(), image_size=32, seed=3)).train(np.arange(30)).images
    for sample, image in zip(read(source), images, strict=True):
        np.testing.assert_array_equal(decode_image(sample.image or b"", 10_000), image)
