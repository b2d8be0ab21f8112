"""The commands of docs/base.md, in its order, on tiny random models of the same classes and on scenes in real data's formats."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rf_repro.cli import main
from rf_repro.config.data_schema import ScenesConfig
from rf_repro.core.files import write_jsonl
from rf_repro.core.run_dir import RunDir
from rf_repro.data.scenes.world import ScenesWorld
from tests.base_world import base_overrides, write_models

PAGE = (Path(__file__).parents[1] / "docs" / "base.md").read_text(encoding="utf-8")
LINES = [line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ ")]
SIZES = {"256": "64", "1024": "96"}  # what the tiny models are trained at
SCALED = ("estimate", "data inspect", "sweep plan", "train", "report")  # commands that take --scale

EVALUATIONS = """\
geneval: {detector: scenes}
tables:
  table3a: [{benchmark: geneval, prompts: prompts.jsonl, size: 256, num: 2}]
  table1: [{benchmark: geneval, prompts: prompts.jsonl, size: 64, num: 2}]
  table2: []
  table3e: []
"""  # in place of what `sweep evaluations` prints, of which nothing is here; the scenes' detector knows images of one size


def smaller(words: list[str], changes: list[str], runs: dict[str, str]) -> list[str] | None:
    """The page's command for the tiny world; None: not run here. `runs`: as the page calls them -> path."""
    name = " ".join(words[:2]) if words[0] in ("data", "sweep") else words[0]
    if name in ("data fetch", "data scenes", "sweep submit"):
        return None  # needs the internet; was run before; has a SLURM in its own tests
    words = [SIZES.get(word, word) if words[index - 1] == "--size" else word for index, word in enumerate(words)]
    words = ["prompts.jsonl" if word == "official" else runs.get(word, word) for word in words]
    words = [re.sub(r"^(images|geneval)-(\d+)$", lambda m: f"{m[1]}-{SIZES[m[2]]}", word) for word in words]
    if name in SCALED:
        words += changes
    if name == "estimate" and "--inference" not in words:
        words[words.index("8")] = "2"  # two packs a step
    if name == "sample":
        words += ["--num", "2", "--device", "cpu"]
    if name == "train":
        words += ["--device", "cpu"]
    if name == "evaluate":
        if "images-96" in words:
            return None  # the scenes' detector knows images of one size
        at = words.index("--weights")
        words[at : at + 2] = ["--detector", "scenes"]
    return words


# long: a page from its first line to its last, each command on what those before it left
@pytest.mark.slow
@pytest.mark.dist
def test_the_pages_commands_run_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def execute(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def rf_repro(*command: str) -> str:
        """In a process of its own where it trains: that starts others."""
        if command[0] == "train":
            return execute("-m", "rf_repro.cli", *command)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if command[:2] == ("sweep", "plan"):
                patch.setenv("PATH", "/nowhere")  # a queue that is there would be asked
            status = main(list(command))
        printed = capsys.readouterr()
        assert status == 0, f"{shlex.join(command)}\n{printed.out[-2000:]}\n{printed.err[-4000:]}"
        return printed.out

    write_models(tmp_path)
    for line in LINES:  # the shards, fewer than the page's
        if line.startswith("rf-repro data scenes"):
            rf_repro(*re.sub(r"--num \d+", "--num 60", line).split()[1:], "--shard-size", "20")
    sources = {"gen": ("generation", "webdataset"), "und": ("understanding", "parquet"), "txt": ("text", "jsonl")}
    rows = [f"- {{name: {n}, path: scenes/{n}, task: {t}, format: {f}}}" for n, (t, f) in sources.items()]
    (tmp_path / "my-data.yaml").write_text("\n".join(rows) + "\n")
    overrides = base_overrides(tmp_path) | {"data.scenes.image_size": 64, "data.workers": 1}
    del overrides["parallel.sharding"]  # as the page: sharded where there are several ranks
    changes = [word for path, value in overrides.items() for word in ("--set", f"{path}={json.dumps(value)}")]
    prompts = ScenesWorld(ScenesConfig(image_size=64)).benchmark(2)
    write_jsonl(tmp_path / "prompts.jsonl", [prompt.metadata for prompt in prompts][:4])

    runs, seen = dict[str, str](), set()
    for line in LINES:
        words = shlex.split(line)
        output = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if ">" in words else words
        if words[0] == "torchrun":  # finds the run done; that it trains as one process would is tested elsewhere
            at = words.index("train")
            execute("-m", "torch.distributed.run", "--nproc-per-node", "2", *words[3:at],
                    *(smaller(words[at:], changes, runs) or ()))  # fmt: skip
            continue
        command = smaller(words[1:], changes, runs)
        if command is None:
            continue
        printed = rf_repro(*command)
        seen.add(words[1])
        if output is not None:
            (tmp_path / output).write_text(EVALUATIONS if output == "my-evals.yaml" else printed)
        if words[1] == "train":
            runs["RUN1" if "table1" in words else "RUN"] = printed.strip().splitlines()[-1]
    assert seen == {"estimate", "data", "sweep", "train", "sample", "evaluate", "report", "export"}

    run, beyond = (RunDir(tmp_path / runs[name]).record() for name in ("RUN", "RUN1"))
    assert (run.status, beyond.status) == ("done", "done")
    assert [name.split("/")[0] for name in run.started_from] == ["stage-alignment"]
    assert [name.split("/")[0] for name in beyond.started_from] == ["stage-alignment", "pixel_rf"]
    assert beyond.started_from[-1].endswith(Path(runs["RUN"]).name)  # the very run of Table 3a
    assert (tmp_path / "inspected").is_dir()
    for size in SIZES.values():
        assert len(list((tmp_path / f"images-{size}").rglob("*.png"))) == 8
    for name in ("RUN", "RUN1"):  # drawn and scored as it was trained
        assert len(list((tmp_path / runs[name] / "images" / "prompts-64").rglob("*.png"))) == 8
    result = RunDir(tmp_path / runs["RUN"]).eval_result("geneval")
    assert result is not None
    assert result.n == result.expected_n == 8
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Table 3a at scale base" in report
    import transformers

    exported = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "qwen3-rf")
    assert exported.config.hidden_size == overrides["model.decoder.width"]
