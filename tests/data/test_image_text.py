"""The loader: the same packs for any number of processes and ranks, across kills; errors and ends of its processes."""

import multiprocessing
import os
import pickle
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.files import append_jsonl, read_jsonl
from rf_repro.core.hashing import content_hash
from rf_repro.data.image_text import ImageTextData, metrics, streams_of
from rf_repro.data.packer import Pack
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.worlds import world_of
from tests.data.tiny_shards import sample, tiny_config, write_source, write_tar
from tests.killing import kill_at
from tests.waiting import SECONDS


def make_config(folder: Path) -> ExperimentConfig:
    sources = [
        write_source(folder, "generation", 5, 90),
        write_source(folder, "understanding", 2, 40, first=1000),
        write_source(folder, "text", 1, 23, first=2000),
    ]
    return tiny_config(folder, sources)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return make_config(tmp_path_factory.mktemp("mixed"))


def loader(config: ExperimentConfig, workers: int, streams: range = range(4)) -> ImageTextData:
    if workers:
        config = apply_overrides(config, {"data.workers": workers})
    return ImageTextData(config, config.stage("joint"), 0, ImageTextTokenizer.from_config(config), streams)


def summary(pack: Pack) -> str:
    """A digest of all that a pack holds."""
    groups = (*pack.batch.generation, *pack.batch.understanding)
    parts = [part for group in groups for part in (group.images, group.text_ids, group.answer_mask)]
    return content_hash([[None if part is None else part.tolist() for part in parts], pack.keys, pack.num_tokens, pack.position])


def take(config: ExperimentConfig, workers: int, steps: int, streams: range = range(4), positions: Any = None) -> list[list[str]]:
    found = islice(loader(config, workers, streams).steps(positions), steps)
    return [[summary(pack) for pack in packs] for packs in found]


@pytest.fixture(scope="module")
def expected(config: ExperimentConfig) -> list[list[str]]:
    return take(config, 0, 6)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_packs_do_not_depend_on_the_number_of_processes(config: ExperimentConfig, expected: Any, workers: int) -> None:
    assert take(config, workers, 6) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_gets_the_same_packs(config: ExperimentConfig, expected: Any) -> None:
    found = list(islice(loader(config, 0).steps(None, torch.device("cuda")), 6))
    assert {group.text_ids.device.type for packs in found for pack in packs for group in pack.batch.generation} == {"cuda"}
    assert [[summary(pack) for pack in packs] for packs in found] == expected


def test_it_can_be_sent_to_processes_that_start_afresh(config: ExperimentConfig, expected: Any) -> None:
    data = pickle.loads(pickle.dumps(loader(config, 0)))
    assert [summary(pack) for pack in next(data.steps())] == expected[0]


@pytest.mark.parametrize(("num_ranks", "workers"), [(2, 0), (2, 1), (4, 2)])
def test_ranks_share_the_streams(config: ExperimentConfig, expected: Any, num_ranks: int, workers: int) -> None:
    parts = [take(config, workers, 3, streams_of(rank, num_ranks, 4)) for rank in range(num_ranks)]
    assert [[one for part in parts for one in part[step]] for step in range(3)] == expected[:3]


def test_streams_are_shared_evenly_or_not_at_all() -> None:
    assert [list(streams_of(rank, 3, 6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match="packs_per_step=4: must be a multiple of the 3 ranks"):
        streams_of(0, 3, 4)


def test_seeds_and_stages_have_packs_of_their_own(config: ExperimentConfig, expected: Any) -> None:
    tokenizer = ImageTextTokenizer.from_config(config)
    other = ImageTextData(config, config.stage("joint"), 1, tokenizer, range(4))
    assert not set(map(summary, next(other.steps()))) & set(expected[0])


def note(config: ExperimentConfig, positions: Any, out: Path) -> None:
    """Takes twelve steps from two loading processes, a line each."""
    for packs in islice(loader(config, 2).steps(positions), 12):
        append_jsonl(out, {"packs": [summary(pack) for pack in packs], "positions": [pack.position for pack in packs]})


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(config: ExperimentConfig, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    kill_at(str(first), 5, note, config, None, first)  # its loaders notice within seconds
    rows = read_jsonl(first)
    assert len(rows) == 4
    note(config, rows[-1]["positions"], second)
    assert [row["packs"] for row in rows + read_jsonl(second)] == take(config, 0, 4 + 12)


def test_positions_of_other_streams_are_refused(config: ExperimentConfig) -> None:
    positions = [pack.position for pack in next(loader(config, 0).steps())]
    with pytest.raises(UserError, match="2 saved positions for 4 streams"):
        next(loader(config, 0).steps(positions[:2]))
    with pytest.raises(UserError, match="the saved position is of stream 1 of 4, this is stream 0 of 4"):
        next(loader(config, 0).steps([positions[1], *positions[1:]]))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_process_finds_is_one_line_of_the_training_process(tmp_path: Path, workers: int) -> None:
    samples = [sample("generation", value, np.random.default_rng(0)) for value in range(120)]
    samples[::2] = [[("png", b"no image"), ("txt", b"a caption")]] * 60
    write_tar(tmp_path / "generation.tar", samples)
    source = {"name": "generation", "path": str(tmp_path / "generation.tar"), "format": "webdataset", "task": "generation"}
    config = tiny_config(tmp_path, [source])
    with pytest.raises(UserError) as caught:
        for _ in loader(config, workers).steps():
            pass
    assert str(caught.value).startswith("data.sources.generation: ")
    assert "corrupt, above data.max_corrupt=0.01" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_processes_end_with_the_loop_and_ignore_a_jobs_signals(config: ExperimentConfig) -> None:
    steps = loader(config, 2).steps()
    first = next(steps)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:
        for kind in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            os.kill(child.pid or 0, kind)
    for _ in range(8):
        assert len(next(steps)) == len(first)
    steps.close()
    for child in children:
        child.join(SECONDS)
        assert not child.is_alive()


def test_loading_leaves_the_trainings_randomness_alone(config: ExperimentConfig) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    take(config, 1, 1)
    take(config, 0, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_metrics_and_fingerprint(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    data = loader(apply_overrides(config, {"data.filters.max_aspect_ratio": 1.5}), 0)
    packs = list(islice(data.steps(), 3))[-1]
    found = metrics(packs)
    assert found["data/utilisation"] == pytest.approx(sum(pack.num_tokens for pack in packs) / (4 * 300))
    counts = [source["counts"] for pack in packs for source in pack.sources.values()]
    assert found["data/dropped"] * sum(count["seen"] for count in counts) == pytest.approx(
        sum(count["dropped"].get("aspect ratio", 0) for count in counts)
    )
    assert 0 < found["data/dropped"] < 1
    assert found["data/corrupt"] == 0
    before = world_of(config).fingerprint(config)
    assert before == world_of(config).fingerprint(config)
    write_source(tmp_path, "text", 1, 24, first=2000)
    assert world_of(config).fingerprint(config) != before
