"""Streams of samples: together all, once an epoch; shares; resumption; and what happens to samples that cannot be used."""

import math
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.prepare import Prepared, Preparer, sample_tokens, target_size
from rf_repro.data.shards import list_shards, shard_length
from rf_repro.data.source_reader import Reference, SourceReader
from rf_repro.data.streams import SampleStream, shares
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from tests.data.tiny_shards import png, sample, tiny_config, write_source, write_tar


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("mixed")
    sources = [
        write_source(folder, "generation", 7, 90),
        write_source(folder, "understanding", 3, 40, first=1000),
        write_source(folder, "text", 1, 13, first=2000),
    ]
    return tiny_config(folder, sources)


def stream(config: ExperimentConfig, number: int, position: dict[str, Any] | None = None, seed: int = 0) -> SampleStream:
    """Of the first part that the config has."""
    stage = config.stage("joint")
    part = next(iter(shares(config, stage)))
    return SampleStream(config, stage, seed, ImageTextTokenizer.from_config(config), part, number, position)


def epochs(config: ExperimentConfig, name: str, num_streams: int, count: int, seed: int = 0) -> list[list[list[Reference]]]:
    """[epoch][stream] -> what the stream reads."""
    source = next(source for source in config.data.sources if source.name == name)
    result: list[list[list[Reference]]] = [[[] for _ in range(num_streams)] for _ in range(count)]
    for number in range(num_streams):
        reader = SourceReader(source, seed, "joint", number, num_streams)
        while (reference := next(reader)[0]).epoch < count:
            result[reference.epoch][number].append(reference)
    return result


@pytest.mark.parametrize("name", ["generation", "understanding", "text"])
@pytest.mark.parametrize("num_streams", [1, 2, 3, 4, 6])
def test_streams_together_read_all_once_an_epoch(mixed: ExperimentConfig, name: str, num_streams: int) -> None:
    source = next(source for source in mixed.data.sources if source.name == name)
    shards = list_shards(source)
    everything = [(shard, index) for shard, path in enumerate(shards) for index in range(shard_length(path, source))]
    orders = []
    for streams in epochs(mixed, name, num_streams, 3):
        read = [(reference.shard, reference.index) for part in streams for reference in part]
        assert sorted(read) == everything
        orders.append(read)
        if num_streams > len(shards):  # shards are cut, so that streams have equally many parts
            parts = num_streams // math.gcd(num_streams, len(shards))
            lengths = [shard_length(path, source) for path in shards]
            assert max(map(len, streams)) <= -(-max(lengths) // parts) * len(shards) * parts // num_streams
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_orders_differ_by_seed_and_source_alone(mixed: ExperimentConfig) -> None:
    assert epochs(mixed, "generation", 2, 1) == epochs(mixed, "generation", 2, 1)
    assert epochs(mixed, "generation", 2, 1, seed=1) != epochs(mixed, "generation", 2, 1)


def test_a_reader_goes_on_from_any_place(mixed: ExperimentConfig) -> None:
    source = mixed.data.sources[1]
    reader = SourceReader(source, 0, "joint", 1, 4)
    places, read = [], []
    for _ in range(40):
        places.append((reader.epoch, reader.unit, reader.index))
        read.append(next(reader))
    assert len({reference.epoch for reference, _ in read}) > 2
    for start in range(40):
        again = SourceReader(source, 0, "joint", 1, 4, places[start])
        assert list(islice(iter(lambda: next(again), None), 8))[: 40 - start] == read[start : start + 8]  # noqa: B023


def test_shares_hold_over_short_stretches(mixed: ExperimentConfig) -> None:
    expected = shares(mixed, mixed.stage("joint"))
    assert expected == {"understanding": pytest.approx({"understanding": 4 / 5, "text": 1 / 5}), "generation": {"generation": 1}}
    for number in range(4):
        source = stream(mixed, number)
        names = [next(source).task for _ in range(260)]
        for length in (26, 260):
            for start in range(0, 260 - length + 1, 13):
                counts = Counter(names[start : start + length])
                for kind, share in expected["understanding"].items():
                    assert abs(counts[kind] - share * length) < 3


def test_weights_divide_a_kind(tmp_path: Path) -> None:
    first, second = write_source(tmp_path / "a", "text", 1, 20), write_source(tmp_path / "b", "text", 1, 20)
    config = tiny_config(tmp_path, [first | {"weight": 3.0}, second | {"name": "other"}])
    assert shares(config, config.stage("joint")) == {"understanding": pytest.approx({"text": 0.75, "other": 0.25})}
    source = stream(config, 0)
    names = Counter(next(source).reference.source for _ in range(100))
    assert names["text"] == pytest.approx(75, abs=2)


def test_a_kind_without_a_source_is_refused(mixed: ExperimentConfig, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, [write_source(tmp_path, "text", 1, 5)], joint__mixture__generation=1)
    with pytest.raises(UserError, match=r"mixture\.generation=1: data\.sources has no source of task generation; add one"):
        shares(config, config.stage("joint"))


def same(left: Prepared, right: Prepared) -> bool:
    arrays = [(left.ids, right.ids), *([(left.mask, right.mask)] if left.mask is not None and right.mask is not None else [])]
    plain = [(p.reference, p.key, p.task, p.image, p.size, p.tokens, p.mask is None) for p in (left, right)]
    return plain[0] == plain[1] and all(np.array_equal(*pair) for pair in arrays)


def test_a_stream_goes_on_from_any_position(mixed: ExperimentConfig) -> None:
    source = stream(mixed, 2)
    positions, samples = [], []
    for _ in range(60):
        positions.append(source.position())
        samples.append(next(source))
    for start in range(0, 60, 7):
        again = stream(mixed, 2, positions[start])
        assert all(same(next(again), expected) for expected in samples[start:])
    references = [sample.reference for sample in samples[5:25]]
    assert all(map(same, stream(mixed, 2).again(references), samples[5:25]))


def test_positions_of_something_else_are_refused(mixed: ExperimentConfig, tmp_path: Path) -> None:
    position = stream(mixed, 2).position()
    with pytest.raises(UserError, match="of stream 2 of 4, this is stream 1 of 4; resume with the same packs_per_step"):
        stream(mixed, 1, position)
    position["sources"]["text"]["shards"] = 5
    with pytest.raises(UserError, match=r"data\.sources\.text: has 1 shards, and had 5"):
        stream(mixed, 2, position)
    del position["sources"]["text"]
    with pytest.raises(UserError, match="the saved position is of understanding, this stage has understanding, text"):
        stream(mixed, 2, position)


def test_sizes_are_uniform_and_keep_the_aspect(mixed: ExperimentConfig) -> None:
    prepare = Preparer(mixed, mixed.stage("joint"), 0, ImageTextTokenizer.from_config(mixed))
    sides = Counter(prepare.longer_side(Reference("generation", 0, 0, index), 1000) for index in range(3000))
    assert sorted(sides) == [16, 24, 32]
    assert all(abs(count - 1000) < 120 for count in sides.values())  # 4.6 standard deviations
    assert {prepare.longer_side(Reference("generation", 0, 0, index), 20) for index in range(100)} == {16, 24}  # no enlarging
    assert {prepare.longer_side(Reference("generation", 0, 0, index), 9) for index in range(100)} == {16}  # unless it must
    for width, height in ((640, 480), (480, 640), (100, 100), (3000, 10), (10, 3000), (333, 777)):
        rows, columns = target_size(width, height, 256, 32)
        assert max(rows, columns) == 256
        assert rows % 32 == columns % 32 == 0
        exact = min(width, height) / max(width, height) * 256
        assert abs(min(rows, columns) - max(exact, 32)) <= 16
        assert (rows <= columns) == (height <= width) or rows == columns


@pytest.mark.parametrize("kind", ["none", "discrete", "continuous", "repa"])
def test_tokens_are_those_of_the_paper(mixed: ExperimentConfig, kind: str) -> None:
    from rf_repro.config.overrides import apply_overrides
    from rf_repro.config.scales import get_scale

    paper = get_scale("paper")
    config = apply_overrides(paper, {"representation.kind": kind}) if kind != "none" else paper
    tokens = {"none": 0, "repa": 0, "discrete": 1 + 64, "continuous": 1 + 64}[kind]
    assert sample_tokens(config, "generation", 256, 256, 50) == 50 + tokens + 256  # P = 256 patches of 16 px, N = P / 4
    assert sample_tokens(config, "understanding", 256, 128, 50) == 50 + 32
    assert sample_tokens(config, "text", 0, 0, 50) == 50


def write_text(folder: Path, texts: list[bytes], name: str = "text") -> dict[str, Any]:
    write_tar(folder / f"{name}.tar", [[("txt", text)] for text in texts])
    return {"name": name, "path": str(folder / f"{name}.tar"), "format": "webdataset", "task": "text"}


def test_filters_leave_out_and_count_by_reason(tmp_path: Path) -> None:
    images = [(30, 30), (6, 30), (40, 11), (30, 30), (33, 30)]
    captions = ["good", "small", "wide", "x", "long " * 20]
    samples = [[("png", png(*size, 1)), ("txt", text.encode())] for size, text in zip(images, captions, strict=True)]
    write_tar(tmp_path / "generation.tar", samples)
    source = {"name": "generation", "path": str(tmp_path / "generation.tar"), "format": "webdataset", "task": "generation"}
    config = tiny_config(
        tmp_path, [source], data__filters__min_text_chars=2, data__filters__max_text_chars=60, joint__packs_per_step=1,
        joint__tokens_per_rank=200,
    )  # fmt: skip
    source_stream = stream(config, 0)
    read = [next(source_stream) for _ in range(4)]
    assert {item.reference.index for item in read} == {0}
    counts = source_stream.counts["generation"]
    assert set(counts.dropped) == {"image too small", "aspect ratio", "text too short", "text too long"}
    assert counts.seen == 4 + sum(counts.dropped.values())
    assert counts.corrupt == 0
    for reason in counts.dropped:
        assert counts.dropped[reason] in (3, 4)


def test_duplicates_of_an_epoch_are_left_out_across_resumption(tmp_path: Path) -> None:
    texts = [f"text number {value % 10}".encode() for value in range(40)]
    config = tiny_config(tmp_path, [write_text(tmp_path, texts)], data__filters__dedup="image", joint__packs_per_step=1)
    source = stream(config, 0)
    read: list[Prepared] = []
    for _ in range(30):
        source = stream(config, 0, source.position())
        read.append(next(source))
    by_epoch = Counter(item.reference.epoch for item in read)
    assert [by_epoch[epoch] for epoch in range(3)] == [10, 10, 10]
    for epoch in range(3):
        assert len({item.ids.tobytes() for item in read if item.reference.epoch == epoch}) == 10
    assert source.counts["text"].dropped["duplicate"] >= 60


def test_corrupt_samples_are_skipped_counted_named_and_stop_the_run(tmp_path: Path) -> None:
    def write(bad: int) -> ExperimentConfig:
        samples = [sample("generation", value, np.random.default_rng(0)) for value in range(200)]
        for index in range(bad):
            samples[index * 3] = [("png", b"no image at all"), ("txt", b"a caption")]
        write_tar(tmp_path / "generation.tar", samples)
        source = {"name": "generation", "path": str(tmp_path / "generation.tar"), "format": "webdataset", "task": "generation"}
        return tiny_config(tmp_path, [source], joint__packs_per_step=1, data__max_corrupt=0.2)

    few = stream(write(30), 0)
    read = [next(few) for _ in range(170)]
    assert not any(item.reference.index in range(0, 90, 3) for item in read)
    counts = few.counts["generation"]
    assert (counts.seen, counts.corrupt, len(counts.named)) == (200, 30, 20)
    assert all("generation.tar" in line for line in counts.named)

    many = stream(write(60), 0)
    with pytest.raises(UserError) as caught:
        list(islice(iter(lambda: next(many), None), 300))
    seen, corrupt = many.counts["generation"].seen, many.counts["generation"].corrupt
    assert seen >= 100
    assert corrupt > 0.2 * seen
    assert str(caught.value).startswith(
        f"data.sources.generation: {corrupt} of {seen} samples are corrupt, above data.max_corrupt=0.2; "
    )
    assert "raise data.max_corrupt" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_source_of_which_nothing_passes_stops_the_run(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, [write_text(tmp_path, [b"word"] * 7)], data__filters__min_text_chars=50, joint__packs_per_step=1
    )
    with pytest.raises(
        UserError, match=r"none of the last 105 samples can be used \(text too short: 105\); change the source, data\.filters"
    ):
        next(stream(config, 0))
    over = tiny_config(tmp_path, [write_text(tmp_path, [b"w" * 40] * 200)], joint__tokens_per_rank=20, joint__packs_per_step=1)
    with pytest.raises(UserError, match=r"none of the last 200 samples can be used \(over budget: 200\)"):
        next(stream(over, 0))


def test_fewer_samples_than_streams(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, [write_text(tmp_path, [b"one", b"two", b"three"])], joint__packs_per_step=8)
    for number in range(8):
        source = stream(config, number)
        assert {next(source).reference.index for _ in range(30)} == {0, 1, 2}
    nothing = tiny_config(tmp_path, [write_text(tmp_path, [])], joint__packs_per_step=8)
    with pytest.raises(UserError, match=r"data\.sources\.text"):
        next(stream(nothing, 0))


def test_a_changed_shard_is_noticed_when_waiting_samples_are_read_again(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, [write_text(tmp_path, [b"word"] * 9)], joint__packs_per_step=1)
    source = stream(config, 0)
    references = [next(source).reference for _ in range(4)]
    write_tar(tmp_path / "text.tar", [[("json", b"{}")]] * 9)
    with pytest.raises(UserError, match="was usable when the run was saved, and now is not"):
        stream(config, 0, source.position()).again(references)
