"""What variants read: understanding and text of a step are the same for all, whatever generation takes beside them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablations.grid import Variant
from ablations.registry import GRIDS
from ablations.variants import PIXEL, PIXEL_RF, VAE, VAE_RF, VLM_ONLY
from rf_repro.compute.ranks import Ranks
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.errors import UserError
from rf_repro.core.hashing import content_hash
from rf_repro.data.image_text import ImageTextData
from rf_repro.data.packer import Pack, PackStream
from rf_repro.data.prepare import Prepared, Preparer, sample_tokens
from rf_repro.data.scenes_shards import ScenesExport, export_scenes
from rf_repro.data.shards.samples import RawSample
from rf_repro.data.source_reader import Reference
from rf_repro.data.streams import SampleStream
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.worlds.image_text.data import StreamedData
from tests.data.tiny_shards import png, sample, tiny_config, write_source, write_tar

STEPS = 20
VARIANTS = (PIXEL, PIXEL_RF, VAE, VAE_RF, VLM_ONLY)
UNDERSTANDING = ("understanding", "text", "scenes")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """Tar shards of every task, and scenes as Parquet and JSON lines: an epoch is shorter than the steps that are read."""
    folder = tmp_path_factory.mktemp("equal")
    scenes: list[dict[str, Any]] = []
    for task, shard_format in (("understanding", "parquet"), ("text", "jsonl")):
        export = ScenesExport(ScenesConfig(), 60, shard_format=shard_format, task=task, shard_size=25, image_size=32)  # type: ignore[arg-type]
        export_scenes(export, folder / f"scenes-{task}")
        scenes.append({"name": f"scenes-{task}", "path": str(folder / f"scenes-{task}"), "format": shard_format, "task": task})
    sources = [
        write_source(folder, "generation", 3, 300),
        write_source(folder, "understanding", 2, 80, first=1000),
        write_source(folder, "text", 1, 40, first=2000),
        *scenes,
    ]
    return tiny_config(folder, sources, representation__kind="none", model__vae__downsample=4)


def read(config: ExperimentConfig, steps: int = STEPS) -> list[list[Pack]]:
    data = ImageTextData(config, config.stage("joint"), 0, ImageTextTokenizer.from_config(config), range(4))
    return list(islice(data.steps(), steps))


def understood(steps: list[list[Pack]]) -> list[list[tuple[list[str], str]]]:
    """[step][pack] -> keys of understanding and text samples, and a digest of their pixels, ids and masks."""

    def of(pack: Pack) -> tuple[list[str], str]:
        parts = [part for group in pack.batch.understanding for part in (group.images, group.text_ids, group.answer_mask)]
        keys = [key for key in pack.keys if key.split("/")[0].split("-")[0] in UNDERSTANDING]
        return keys, content_hash([None if part is None else part.tolist() for part in parts])

    return [[of(pack) for pack in packs] for packs in steps]


def generated(steps: list[list[Pack]]) -> list[str]:
    return [key for packs in steps for pack in packs for key in pack.keys if key.startswith("generation/")]


@pytest.fixture(scope="module")
def pixel(base: ExperimentConfig) -> list[list[Pack]]:
    return read(PIXEL.config(base))


@pytest.mark.parametrize("variant", VARIANTS[1:], ids=lambda variant: variant.key)
def test_every_variant_reads_the_same_to_understand_key_by_key(
    base: ExperimentConfig, pixel: list[list[Pack]], variant: Variant
) -> None:
    expected, steps = understood(pixel), read(variant.config(base))
    assert sum(len(keys) for packs in expected for keys, _ in packs) > 2 * STEPS * 4
    assert {key.split("/")[0] for packs in expected for keys, _ in packs for key in keys} == {
        "understanding", "text", "scenes-understanding", "scenes-text"
    }  # fmt: skip
    assert understood(steps) == expected


def test_what_differs_is_how_many_images_are_generated(base: ExperimentConfig, pixel: list[list[Pack]]) -> None:
    """Budgets of tokens are equal, so sequences with representation tokens are fewer; a VLM's packs hold its own part alone."""
    rf, vae, vlm = (read(variant.config(base)) for variant in (PIXEL_RF, VAE, VLM_ONLY))
    assert generated(vae) == generated(pixel)
    assert len(generated(pixel)) > 1.1 * len(generated(rf))
    assert generated(vlm) == []
    assert {pack.budget for packs in vlm for pack in packs} == {120}
    assert {pack.budget for steps in (pixel, rf) for packs in steps for pack in packs} == {300}
    for steps in (pixel, rf, vlm):
        assert sum(pack.num_tokens for packs in steps for pack in packs) > 0.93 * STEPS * 4 * steps[0][0].budget


def test_all_rows_are_given_images_to_generate_in_one_order(base: ExperimentConfig) -> None:
    orders = []
    for variant in (PIXEL, PIXEL_RF, VAE):
        config = variant.config(base)
        samples = SampleStream(config, config.stage("joint"), 0, ImageTextTokenizer.from_config(config), "generation", 1)
        orders.append([(one.reference, one.size) for one in islice(iter(lambda: next(samples), None), 150)])  # noqa: B023
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize(
    ("change", "is_equal"),
    [
        ({"data.caption_tokens": 12}, True),  # shorter sequences to generate
        ({"model.pixel.patch_size": 2}, True),  # four times as many pixel tokens: most images no longer fit
        ({"stages.joint.understanding_share": 0.5}, False),
        ({"stages.joint.mixture.text": 3}, False),
        ({"model.encoder.patch_size": 2}, False),  # image features are other tokens, and sides other multiples
    ],
    ids=str,
)
def test_generation_of_any_size_changes_nothing_of_it(
    base: ExperimentConfig, pixel: list[list[Pack]], change: dict[str, Any], is_equal: bool
) -> None:
    steps = read(apply_overrides(PIXEL.config(base), change), 6)
    assert (understood(steps) == understood(pixel[:6])) is is_equal
    if "model.pixel.patch_size" in change:
        assert len(generated(steps)) < 0.5 * len(generated(pixel[:6]))


def test_damaged_images_to_generate_change_nothing_of_it(base: ExperimentConfig, pixel: list[list[Pack]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [sample("generation", value, rng) for value in range(200)]
    for members in samples[::4]:
        members[0] = (members[0][0], members[0][1][:45] + bytes(len(members[0][1]) - 45))
    write_tar(tmp_path / "generation.tar", samples)
    sources = [replace(source, path=str(tmp_path / "generation.tar")) if source.task == "generation" else source
               for source in base.data.sources]  # fmt: skip
    config = replace(base, data=replace(base.data, sources=tuple(sources), max_corrupt=1.0))
    steps = read(config, 8)
    assert understood(steps) == understood(pixel[:8])
    counts = steps[-1][0].sources["generation"]["counts"]
    assert counts["corrupt"] > 0
    assert counts["packed"] > 0


def test_what_is_too_long_is_so_for_every_variant(base: ExperimentConfig) -> None:
    """Between the lengths of one sample with and without representation tokens, none of them takes it."""
    tokenizer, reference = ImageTextTokenizer.from_config(base), Reference("generation", 0, 0, 0)
    raw = RawSample("a", png(40, 40, 1), "a caption", ())
    source = base.data.sources[0]
    lengths, sizes = {}, set()
    for variant in (PIXEL, PIXEL_RF, VAE):
        config = variant.config(base)
        found = Preparer(config, config.stage("joint"), 0, tokenizer)(raw, source, reference)
        assert isinstance(found, Prepared)
        assert found.tokens == sample_tokens(config, "generation", *found.size, len(found.ids))
        lengths[variant.key] = found.tokens
        sizes.add(found.size)
    assert lengths["pixel_rf"] > lengths["pixel"] == lengths["vae"]
    assert len(sizes) == 1
    for room, fits in ((lengths["pixel_rf"] - 1, False), (lengths["pixel_rf"], True)):
        for variant in (PIXEL, PIXEL_RF, VAE):
            config = variant.config(base)
            stage = replace(config.stage("joint"), tokens_per_rank=room, understanding_share=0.0)
            found = Preparer(config, stage, 0, tokenizer)(raw, source, reference)
            assert isinstance(found, Prepared) is fits
            assert fits or found == "over budget"


@pytest.mark.parametrize("scale", ["base", "paper"])
def test_no_row_of_a_table_touches_what_is_read_to_understand(scale: str) -> None:
    base = get_scale(scale)
    for grid in GRIDS.values():
        for key, config in grid.configs(scale).items():
            for ours, theirs in zip(config.stages, base.stages[: len(config.stages)], strict=True):  # a table may end early
                assert ours.understanding_tokens == theirs.understanding_tokens, key
                assert (ours.mixture.understanding, ours.mixture.text) == (theirs.mixture.understanding, theirs.mixture.text)
            assert config.image_stride == base.image_stride
            assert config.model.encoder.patch_size == base.model.encoder.patch_size  # so images are of one size and length
            assert config.data == base.data


class Twice(Ranks):
    """Stands for two ranks that read alike."""

    def sum_(self, tensors: Any) -> None:
        for tensor in tensors:
            tensor.mul_(2)


def streamed(config: ExperimentConfig, ranks: Ranks) -> StreamedData:
    tokenizer = ImageTextTokenizer.from_config(config)
    return StreamedData(ImageTextData(config, config.stage("joint"), 0, tokenizer, range(4)), ranks)


def test_a_run_records_what_it_has_read_a_step(base: ExperimentConfig, pixel: list[list[Pack]]) -> None:
    data = streamed(PIXEL.config(base), Ranks.alone())
    for step in range(1, 6):
        data.packs(step)
    state, early = data.state(Ranks.alone()), data.metrics()
    keys = [key for packs in pixel[:5] for pack in packs for key in pack.keys]
    tokens = sum(pack.num_tokens for packs in pixel[:5] for pack in packs)
    count = len(generated(pixel[:5]))
    assert early["data/generation_samples"] == pytest.approx(count / 5)
    assert early["data/understanding_samples"] == pytest.approx((len(keys) - count) / 5)
    assert early["data/generation_tokens"] + early["data/understanding_tokens"] == pytest.approx(tokens / 5)
    for step in range(6, 9):
        data.packs(step)
    again = streamed(PIXEL.config(base), Ranks.alone())
    again.load_state(state)
    for step in range(6, 9):
        again.packs(step)
    assert again.metrics() == data.metrics()  # of all steps, not of those since it was resumed

    double = streamed(PIXEL.config(base), Twice())
    for step in range(1, 6):
        double.packs(step)
    found = double.metrics()
    assert found["data/generation_samples"] == 2 * early["data/generation_samples"]
    vlm = streamed(VLM_ONLY.config(base), Ranks.alone())
    vlm.packs(1)
    found = vlm.metrics()
    assert found["data/generation_samples"] == found["data/generation_tokens"] == 0
    assert found["data/understanding_samples"] == sum(len(keys) for keys, _ in understood(pixel[:1])[0])


def test_positions_of_other_parts_are_refused(base: ExperimentConfig) -> None:
    config = VLM_ONLY.config(base)
    tokenizer = ImageTextTokenizer.from_config(config)
    both = next(PackStream(PIXEL.config(base), base.stage("joint"), 0, tokenizer, 0)).position
    with pytest.raises(UserError, match="position is of understanding, generation, this stage has understanding; resume with"):
        PackStream(config, config.stage("joint"), 0, tokenizer, 0, both)


def test_images_are_as_the_shards_have_them(pixel: list[list[Pack]]) -> None:
    """The digests above are of something: pixels differ between samples."""
    images = [group.images for pack in pixel[0] for group in pack.batch.understanding if group.images is not None]
    assert len(images) > 1
    assert not torch.equal(images[0][0, :, 0, 0], images[1][0, :, 0, 0])
