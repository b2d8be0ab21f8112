"""Packs: nothing lost, nothing over budget, nearly full, exact after every resumption."""

import itertools
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.packing import simulate
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.data.packer import Pack, PackStream, best_subset
from rf_repro.data.prepare import sample_tokens
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from tests.data.tiny_shards import sample, tiny_config, write_source, write_tar


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("mixed")
    sources = [
        write_source(folder, "generation", 3, 90),
        write_source(folder, "understanding", 2, 40, first=1000),
        write_source(folder, "text", 1, 23, first=2000),
    ]
    return tiny_config(folder, sources)


def stream(config: ExperimentConfig, number: int = 0, position: dict[str, Any] | None = None) -> PackStream:
    return PackStream(config, config.stage("joint"), 0, ImageTextTokenizer.from_config(config), number, position)


def same(left: Pack, right: Pack) -> bool:
    def tensors(pack: Pack) -> list[torch.Tensor | None]:
        groups = (*pack.batch.generation, *pack.batch.understanding)
        return [part for group in groups for part in (group.images, group.text_ids, group.answer_mask)]

    pairs = list(itertools.zip_longest(tensors(left), tensors(right)))
    equal = all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
    return equal and (left.keys, left.num_tokens, left.position) == (right.keys, right.num_tokens, right.position)


def test_best_subset_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        costs = rng.integers(1, 40, rng.integers(1, 9)).tolist()
        room = int(rng.integers(0, 80))
        sums = [sum(chosen) for size in range(len(costs) + 1) for chosen in itertools.combinations(costs, size)]
        chosen = best_subset(costs, room)
        assert sum(costs[index] for index in chosen) == max(total for total in sums if total <= room)
        assert len(set(chosen)) == len(chosen)
    assert best_subset([5, 5, 5], 10) == [0, 1]  # the oldest


def test_images_belong_to_their_texts_and_tokens_add_up(mixed: ExperimentConfig) -> None:
    tokenizer = ImageTextTokenizer.from_config(mixed)
    kinds = Counter()
    for arrays in islice(stream(mixed), 30):
        pack = arrays.to_pack()
        total = 0
        keys = iter(pack.keys)
        layouts = []
        for task, groups in (("generation", pack.batch.generation), ("understanding", pack.batch.understanding)):
            for group in groups:
                count, length = group.text_ids.shape
                size = (0, 0) if group.images is None else tuple(group.images.shape[2:])
                layouts.append((task, *size, length))
                total += count * sample_tokens(mixed, task, *size, length)
                assert max(size) <= 32
                assert not any(side % 8 for side in size)
                for row in range(count):
                    kinds[task if size[0] else "text"] += 1
                    name = next(keys)
                    words = tokenizer.decode(group.text_ids[row]).split()
                    value = (
                        int(words[words.index({"generation": "caption", "understanding": "question"}[task]) + 1])
                        if size[0]
                        else 0
                    )
                    if group.images is None:
                        assert name.startswith("text/text-")
                        continue
                    assert name.startswith(f"{task}/{task}-")
                    assert group.images.dtype == torch.float32
                    pixels = (group.images[row].flatten(1) + 1) * 127.5
                    expected = torch.tensor([value % 256, value // 256, 77.0])[:, None]
                    torch.testing.assert_close(pixels, expected.expand_as(pixels), atol=1e-3, rtol=0)
                assert (group.answer_mask is None) == (task == "generation")
                if group.answer_mask is not None:
                    assert group.answer_mask[:, 1:].any(1).all()
        assert next(keys, None) is None
        assert layouts == sorted(set(layouts))
        assert pack.num_tokens == total <= pack.budget == 300
        counts = {name: source["counts"] for name, source in pack.sources.items()}
    assert {name: count["packed"] for name, count in counts.items()} == kinds
    assert set(kinds) == {"generation", "understanding", "text"}
    assert kinds["understanding"] / (kinds["understanding"] + kinds["text"]) == pytest.approx(4 / 5, abs=0.06)


def test_every_sample_goes_into_one_pack_of_an_epoch(mixed: ExperimentConfig) -> None:
    seen: Counter[str] = Counter()
    for number in range(4):
        packs, source = stream(mixed, number), "generation"
        while True:
            arrays = next(packs)
            seen.update(key for key in arrays.keys if key.startswith(source))
            position = arrays.position[source]
            if position["sources"][source]["next"][0] >= 2:
                break
        # What was read of epochs 0 and 1 is in packs or waits; what was read of epoch 2 is among them too.
        seen.update(_key(mixed, item) for item in position["waiting"])
        read = stream(mixed, number).parts["generation"].samples
        extra: list[str] = []
        while read.position()["draws"] < position["draws"]:
            found = next(read)
            extra += [found.key] if found.reference.source == source and found.reference.epoch >= 2 else []
        seen.subtract(extra)
    assert set(seen.values()) == {2}
    assert len(seen) == 90


def _key(config: ExperimentConfig, item: list[Any]) -> str:
    name, _, shard, index = item
    return f"{name}/{name}-{shard:03d}.tar:{index:06d}"


def test_going_on_after_every_pack_gives_the_packs_that_would_have_followed(mixed: ExperimentConfig) -> None:
    whole = [arrays.to_pack() for arrays in islice(stream(mixed, 1), 24)]
    for count, pack in enumerate(whole[:-1], start=1):
        position = json.loads(json.dumps(pack.position))
        following = [arrays.to_pack() for arrays in islice(stream(mixed, 1, position), 3)]
        assert all(map(same, following, whole[count : count + 3]))
    assert len(json.dumps(whole[-1].position)) < 3000


def test_nobody_waits_longer_than_the_pool_is_large(mixed: ExperimentConfig) -> None:
    packs, waited = stream(mixed), Counter()
    for _ in range(60):
        parts = [{tuple(item) for item in part["waiting"]} for part in next(packs).position.values()]
        assert max(map(len, parts)) < mixed.data.lookahead + 1
        waiting = set.union(*parts)
        waited = Counter({item: waited[item] + 1 for item in waiting})
        assert max(waited.values()) <= mixed.data.lookahead


def test_large_images_let_fewer_samples_wait(mixed: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rf_repro.data.packer.MAX_WAITING_BYTES", 200)  # two or three of these images
    packs = list(islice(stream(mixed), 12))
    waiting = [[item for item in part["waiting"] if item[0] != "text"] for pack in packs for part in pack.position.values()]
    assert max(map(len, waiting)) <= 4 < mixed.data.lookahead
    again = list(islice(stream(mixed, 0, packs[5].position), 6))
    assert all(same(left.to_pack(), right.to_pack()) for left, right in zip(again, packs[6:], strict=True))


def test_small_budgets_are_filled_too(mixed: ExperimentConfig) -> None:
    packs = list(islice(stream(apply_overrides(mixed, {"data.lookahead": 48})), 40))
    assert max(len(pack.keys) for pack in packs) < 12
    assert sum(pack.num_tokens for pack in packs) / sum(pack.budget for pack in packs) > 0.97


@pytest.mark.parametrize("stage", ["joint", "continued"])
def test_packs_of_the_papers_budget_are_over_97_percent_full(stage: str) -> None:
    for seed in range(2):
        assert simulate(stage, num_packs=40, seed=seed).utilisation > 0.97


def test_what_only_decoding_finds_is_counted_and_its_room_is_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [sample("generation", value, rng) for value in range(60)]
    for index in range(0, 60, 5):  # the header is good, the pixels are not
        ending, data = samples[index][0]
        samples[index][0] = (ending, data[:45] + bytes(len(data) - 45))
    write_tar(tmp_path / "generation.tar", samples)
    source = {"name": "generation", "path": str(tmp_path / "generation.tar"), "format": "webdataset", "task": "generation"}
    config = tiny_config(tmp_path, [source], data__max_corrupt=1.0, joint__packs_per_step=1)
    packs = list(islice(stream(config), 20))
    bad = {f"{index:06d}" for index in range(0, 60, 5)}
    assert not any(key.rsplit(":", 1)[1] in bad for pack in packs for key in pack.keys)
    counts = packs[-1].position["generation"]["sources"]["generation"]["counts"]
    assert counts["corrupt"] >= 12
    assert all(line.split(":")[1] in bad for line in counts["named"])
    assert sum(pack.num_tokens for pack in packs) / sum(pack.budget for pack in packs) > 0.93
    again = list(islice(stream(config, 0, packs[7].position), 5))
    assert all(same(left.to_pack(), right.to_pack()) for left, right in zip(again, packs[8:13], strict=True))

    strict = tiny_config(tmp_path, [source], data__max_corrupt=0.05, joint__packs_per_step=1)
    with pytest.raises(UserError, match=r"samples are corrupt, above data\.max_corrupt=0\.05; generation/generation\.tar:"):
        list(islice(stream(strict), 40))


def test_a_source_that_cannot_be_decoded_at_all_stops_the_run(tmp_path: Path) -> None:
    samples = [sample("generation", value, np.random.default_rng(0)) for value in range(150)]
    for members in samples:
        members[0] = (members[0][0], members[0][1][:45] + bytes(len(members[0][1]) - 45))
    write_tar(tmp_path / "generation.tar", samples)
    source = {"name": "generation", "path": str(tmp_path / "generation.tar"), "format": "webdataset", "task": "generation"}
    config = tiny_config(tmp_path, [source], data__max_corrupt=1.0, joint__packs_per_step=1)
    with pytest.raises(UserError, match=r"none of the last 100 samples can be used \(corrupt: 100"):
        next(stream(config))


@pytest.mark.parametrize("kind", ["none", "discrete", "continuous", "repa"])
def test_the_model_counts_the_same_tokens(mixed: ExperimentConfig, kind: str) -> None:
    from rf_repro.model.rf_model import RFModel

    changes = {
        "representation.kind": kind, "model.decoder.width": 16, "model.decoder.num_layers": 1, "model.decoder.num_heads": 2,
        "model.decoder.num_kv_heads": 1, "model.decoder.head_dim": 8, "model.decoder.ffn_width": 16, "model.encoder.width": 24,
        "model.decoder.num_experts": 0, "model.decoder.num_active_experts": 0, "model.encoder.pretrained": "",
        "model.encoder.num_layers": 1, "model.encoder.num_heads": 3, "model.encoder.ffn_width": 24,
        "representation.codebook_size": 8, "representation.continuous.width": 16, "representation.alignment.width": 16,
        "representation.alignment.layer": 1, "stages.continued.min_image_size": 16, "stages.continued.max_image_size": 32,
        "stages.alignment.max_image_size": 32,
    }  # fmt: skip
    config = apply_overrides(mixed, {path: value for path, value in changes.items() if (path, value) != _DISCRETE})
    model = RFModel(config, config.model.decoder.vocab_size)
    for arrays in islice(stream(config), 8):
        pack = arrays.to_pack()
        assert model.num_tokens(pack.batch) == pack.num_tokens


_DISCRETE = ("representation.kind", "discrete")  # what `mixed` has
