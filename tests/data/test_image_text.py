"""The loader: the same packs for any number of processes and ranks, across kills; errors and ends of its processes."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.data.image_text import ImageTextData, metrics, streams_of
from rf_repro.data.packer import Pack
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.pipeline import data_fingerprint
from tests.data.tiny_shards import sample, tiny_config, write_source, write_tar


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


SCRIPT = """
import json, sys
from itertools import islice
from pathlib import Path
from rf_repro.config.overrides import from_dict
from tests.data.test_image_text import loader, summary

config, positions, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
saved = json.loads(positions.read_text()) if positions.exists() else None
for packs in islice(loader(from_dict(config), 2).steps(saved), 12):
    with out.open("a") as file:
        file.write(json.dumps([[summary(pack) for pack in packs], [pack.position for pack in packs]]) + "\\n")
print("done")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(config: ExperimentConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    paths = [str(tmp_path / name) for name in ("config.json", "positions.json", "out.jsonl")]

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *paths], stdout=subprocess.PIPE, text=True)

    killed, out = start(), tmp_path / "out.jsonl"
    while not (out.exists() and len(out.read_text().splitlines()) >= 3):
        assert killed.poll() is None
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()  # its loaders notice within seconds
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kept = min(len(rows), 5)
    (tmp_path / "positions.json").write_text(json.dumps(rows[kept - 1][1]))
    out.unlink()
    again = start()
    assert again.communicate()[0] == "done\n"
    following = [json.loads(line)[0] for line in out.read_text().splitlines()]
    assert [row[0] for row in rows[:kept]] + following == take(config, 0, kept + 12)


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
        child.join(timeout=10)
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
    assert found["data/utilisation"] == pytest.approx(sum(pack.num_tokens for pack in packs) / (4 * 160))
    assert found["data/samples"] == sum(len(pack.keys) for pack in packs)
    counts = [source["counts"] for pack in packs for source in pack.position["sources"].values()]
    assert found["data/dropped"] * sum(count["seen"] for count in counts) == pytest.approx(
        sum(count["dropped"].get("aspect ratio", 0) for count in counts)
    )
    assert 0 < found["data/dropped"] < 1
    assert found["data/corrupt"] == 0
    before = data_fingerprint(config)
    assert before == data_fingerprint(config)
    write_source(tmp_path, "text", 1, 24, first=2000)
    assert data_fingerprint(config) != before
