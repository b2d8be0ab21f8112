"""What the estimate says packs hold is what the packer puts into them, within 4%, where its assumptions hold."""

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from ablations.grid import Variant
from ablations.variants import PIXEL, PIXEL_RF, VLM_ONLY
from rf_repro.config.schema import ExperimentConfig
from rf_repro.data.packer import PackStream
from rf_repro.data.text_tokenizer import ImageTextTokenizer
from rf_repro.worlds import world_of
from tests.data.tiny_shards import png, tiny_config, write_tar

PACKS = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """Square images larger than any size drawn, and texts that are cut to the longest."""
    folder = tmp_path_factory.mktemp("workload")
    members = {
        "generation": [("png", png(40, 40, 1)), ("txt", b"circle " * 200)],
        "understanding": [("png", png(40, 40, 2)), ("txt", b"circle " * 200)],
        "text": [("txt", b"circle " * 200)],
    }
    sources: list[dict[str, Any]] = []
    for task, one in members.items():
        write_tar(folder / f"{task}.tar", [one] * 40)
        sources.append({"name": task, "path": str(folder / f"{task}.tar"), "format": "webdataset", "task": task})
    return tiny_config(folder, sources, representation__kind="none", joint__tokens_per_rank=5000, data__lookahead=64)


@pytest.mark.parametrize("variant", [PIXEL, PIXEL_RF, VLM_ONLY], ids=lambda variant: variant.key)
def test_the_workload_is_what_the_packer_does(base: ExperimentConfig, variant: Variant) -> None:
    config = variant.config(base)
    stage = config.stage("joint")
    packs = list(islice(PackStream(config, stage, 0, ImageTextTokenizer.from_config(config), 0), PACKS))
    counts = Counter(key.split("/")[0] for pack in packs for key in pack.keys)
    work = world_of(config).workload(config, stage, 4)
    assert counts.keys() == work.samples.keys()
    for kind, count in counts.items():
        assert count / PACKS == pytest.approx(work.samples[kind], rel=0.04), kind
    assert sum(pack.num_tokens for pack in packs) / PACKS == pytest.approx(work.num_tokens, rel=0.02)
    assert work.step_tokens == pytest.approx(4 * sum(stage.part_tokens(part) for part in packs[0].position))
