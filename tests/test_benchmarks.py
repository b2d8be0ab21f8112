"""Every benchmark runs at its smallest size, and its record has all rows with finite, positive numbers. No speed is asserted."""

import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import experts, geneval, packing, paper_step, speed, sweep, vq
from benchmarks.peers import contest
from benchmarks.peers.__main__ import main as peers
from benchmarks.timing import alternate
from rf_repro.model import attention
from rf_repro.train import trainer

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a benchmark with the words of a command line, and returns its record."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(trainer, "initial_values", trainer.initial_values)  # what benchmarks.paper_step sets is set back
    monkeypatch.setattr(attention, "MAX_GROUPS_ONE_BY_ONE", attention.MAX_GROUPS_ONE_BY_ONE)

    def measure(main: Callable[[list[str]], None], words: str) -> Any:
        main([*words.split(), "--out", str(tmp_path / "record.json")])
        return json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))

    yield measure
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


def positive(values: Any) -> bool:
    found = list(values.values() if isinstance(values, dict) else values)
    return bool(found) and all(math.isfinite(value) and value > 0 for value in found)


ALL = {
    "training step of the decoder": [
        "ours", "ours, adaLN", "ours, compiled", "Qwen3-MoE (transformers), text", "transfusion-pytorch", "BAGEL's MoT",
    ],
    "decoding 4 tokens, batch 1": ["ours", "Qwen3 (transformers)", "x-transformers"],
    "decoding 4 tokens with guidance, batch 1": ["ours", "Qwen3 (transformers)"],
    "denoising one image, 2 steps": ["ours", "ours, recomputed", "transfusion-pytorch, sample_many"],
    "online VQ, 64 features to 32 codes of 16": ["ours", "vector-quantize-pytorch"],
}  # fmt: skip
NEEDS = {"transfusion": "transfusion_pytorch", "x-transformers": "x_transformers", "(transformers)": "transformers",
         "vector-quantize": "vector_quantize_pytorch"}  # fmt: skip


def test_peers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(peers, "--smallest --device cpu")
    said = capsys.readouterr().out
    assert {row["contest"]: None for row in record["rows"]}.keys() == ALL.keys()
    for title, systems in ALL.items():
        rows = [row for row in record["rows"] if row["contest"] == title and row["dtype"] == "float32"]
        assert sorted(row["system"] for row in rows) == sorted(systems)
        assert rows[0]["system"] == "ours"
        assert rows[0]["ratio"] == 1
    for row in record["rows"]:
        name = row["system"]
        absent = [package for word, package in NEEDS.items() if word in name and not find_spec(package)]
        if absent or name in ("BAGEL's MoT", "ours, compiled"):
            assert row["value"] is row["ratio"] is None
            assert row["note"].startswith(("left out: ", "not given: --bagel"))
            assert row["note"] in said
        else:
            assert positive([row["value"], row["ratio"]]), row
    assert {"python", "torch", "rf_repro"} <= record["versions"].keys()
    assert {"processor", "cores", "instructions", "system"} <= record["machine"].keys()
    assert {"revision", "date", "size"} <= record.keys()


def test_the_work_of_peers_is_equal_by_count() -> None:
    """Matrices that a token meets, of ours and of transformers, are as many as the contest says."""
    transformers = pytest.importorskip("transformers")
    from benchmarks.peers import models, training

    size = contest.SMALLEST
    promised = size.layers * (4 * size.width * size.heads * size.head_dim + 3 * size.width * size.inner)
    blocks = models.decoder(size, torch.device("cpu"), torch.float32).blocks
    ours = [p for name, p in blocks.named_parameters() if p.ndim > 1 and (".pools." not in name or ".pools.pixel." in name)]
    assert sum(p.numel() for p in ours) == promised
    made: list[Any] = []
    real = transformers.Qwen3MoeModel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers, "Qwen3MoeModel", lambda config: made.append(real(config)) or made[-1])
        tasks = training.qwen3_moe(size, torch.device("cpu"), torch.float32)
    for task in tasks.values():
        task()
    for model in made:
        parameters = dict(model.layers.named_parameters())
        assert all(p.grad is not None for p in parameters.values())
        dense = [p for name, p in parameters.items() if p.ndim > 1 and "experts" not in name and not name.endswith("gate.weight")]
        experts_ = [p for name, p in parameters.items() if "experts" in name]
        assert sum(p.numel() for p in dense) + sum(p.numel() for p in experts_) // 3 == promised


def test_the_fastest_of_variants_counts() -> None:
    unit = contest.Contest("a", "s", torch.float32, 2, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "alternate", lambda tasks, *_: dict(zip(tasks, (4.0, 3.0, 2.0), strict=True)))
        entries = [contest.Entry(name, int, variant) for name, variant in (("ours", ""), ("peer", "slow"), ("peer", "quick"))]
        ours, peer = unit.run(entries, torch.device("cpu"), 1)
    assert (ours.value, ours.ratio) == (2.0, 1.0)
    assert (peer.value, peer.ratio, peer.note) == (1.0, 0.5, "quick")


def test_variants_are_timed_in_turn_and_warm_ones_are_not_counted() -> None:
    order: list[str] = []
    tasks = {name: lambda name=name: order.append(name) for name in "ab"}
    assert alternate(tasks, torch.device("cpu"), repeats=2, warm=1).keys() == {"a", "b"}
    assert order == list("ababab")


def test_bagel_is_a_clone(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(SystemExit):
        run(peers, f"--smallest --device cpu --bagel {tmp_path}")
    assert f"error: {tmp_path}: git rev-parse failed" in capsys.readouterr().err
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message=a"]
    subprocess.run(["git", "-C", tmp_path, *commit], check=True)
    with pytest.raises(SystemExit, match=r"--bagel .*: no clone of https://github.com/ByteDance-Seed/Bagel"):
        run(peers, f"--smallest --device cpu --bagel {tmp_path}")
    assert "flash_attn" not in sys.modules


def test_speed(run: Run) -> None:
    record = run(speed.main, "--scale smoke --repeats 1")
    assert record["ratios"].keys() == {label for label, _, _ in speed.RATIOS}
    assert positive(record["ratios"])
    assert positive(record["seconds"])


def test_vq(run: Run) -> None:
    rows = run(vq.main, "--sizes 64,32,16 --repeats 1 --device cpu")["rows"]
    assert [row["balance"] for row in rows] == list(vq.BALANCES)
    assert all(positive(row["seconds"]) and positive([row["time_ratio"]]) for row in rows)


def test_experts(run: Run) -> None:
    record = run(experts.main, "--tokens 16 --repeats 1")
    assert record["milliseconds"].keys() == {"grouped", "loop", "dense"}
    assert positive(record["milliseconds"])


def test_packing(run: Run) -> None:
    record = run(packing.main, "--packs 2 --size 64 --samples 8")
    stages = [f"{stage} {lookahead}" for stage in ("alignment", "joint", "continued") for lookahead in (1, 16, 64)]
    assert record.keys() == {*stages, "loading"}
    assert all(positive(values) for values in record.values())


def test_paper_step(run: Run) -> None:
    record = run(paper_step.main, "--size toy --tokens 2048 --steps 1")
    assert positive([record[name] for name in ("seconds", "tokens_per_second", "flops", "mfu", "loss", "first_step_seconds")])


def test_sweep(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").symlink_to(shutil.which("git") or "git")
    monkeypatch.setenv("PATH", str(tmp_path))  # without SLURM's commands, which it would ask where they are
    (row,) = run(sweep.main, "--rows 4 --repeats 1")
    assert positive(row)


def test_geneval(run: Run) -> None:
    for package in ("transformers", "open_clip"):
        pytest.importorskip(package, reason="the extra `geneval` is not installed")
    record = run(geneval.main, "--num-images 4 --side 64 --repeats 1 --small")
    assert record["images_per_second"].keys() == {"one at a time", "batches of 4"}
    assert positive(record["images_per_second"])
