"""Profiles: what they ask for, in Submitit's words and in sbatch's."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitit.slurm.slurm import _get_default_parameters, _make_sbatch_string

from rf_repro.core.errors import UserError
from slurm.profile import ACTIONS, Profile, bundled_profiles, load_profile
from slurm.resources import Resources, parse_gres, parse_memory, parse_time


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def load(folder: Path, text: str) -> Profile:
    return load_profile(str(write(folder, text)))


def sbatch(profile: Profile, resources: Resources, **more: Any) -> list[str]:
    """The lines of the script that Submitit makes."""
    return _make_sbatch_string(
        command="python job", folder="/runs/jobs", **profile.slurm_parameters(resources, **more)
    ).splitlines()  # fmt: skip


def flags(lines: list[str]) -> dict[str, str]:
    pairs = (line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH"))
    return {name: value for name, _, value in pairs}


FULL = """
resources:
  partition: gpu
  account: lab
  qos: high
  constraint: "h100&nvme"
  reservation: maintenance
  exclude: n[1-3]
  nodes: 2
  gpus_per_node: 8
  cpus_per_task: 12
  memory: 960GB
  time: 1-12:00:30
  exclusive: true
  sbatch: {mail-type: FAIL, nice: 100, spread-job: true}
signal_seconds: 300
setup:
  - module load cuda
environment: {NCCL_DEBUG: WARN, TEXT: "it's $HOME", NUMBER: 22, EMPTY: ""}
"""


def test_every_field_reaches_the_script(tmp_path: Path) -> None:
    profile = load(tmp_path, FULL)
    lines = sbatch(profile, profile.resources("train"))
    found = flags(lines)
    for ours in ("open-mode", "output", "error", "job-name", "wckey"):  # Submitit's own
        del found[ours]
    assert found == {
        "partition": "gpu", "account": "lab", "qos": "high", "constraint": "'h100&nvme'", "reservation": "maintenance",
        "exclude": "'n[1-3]'", "nodes": "2", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "12",
        "mem": "983040M", "time": "2161", "exclusive": "", "signal": "USR2@300", "mail-type": "FAIL", "nice": "100",
        "spread-job": "",
    }  # fmt: skip
    start = lines.index("# setup")
    assert lines[start + 1 : start + 6] == [
        "module load cuda", "export NCCL_DEBUG=WARN", "export TEXT='it'\"'\"'s $HOME'", "export NUMBER=22", "export EMPTY=''",
    ]  # fmt: skip
    assert any(line.startswith("srun ") and " --cpus-per-task=12 " in line for line in lines)


@pytest.mark.parametrize("name", bundled_profiles())
def test_submitit_takes_every_bundled_profile(name: str) -> None:
    profile = load_profile(name)
    assert profile.source.startswith(f"{name} (bundled example, ")
    raw = yaml.safe_load((Path(load_profile.__code__.co_filename).parent / "profiles" / f"{name}.yaml").read_text())
    assert profile.cluster == raw.get("cluster", "slurm")
    for action in ACTIONS:
        for single in (False, True):
            resources = profile.resources(action, single)
            assert set(profile.slurm_parameters(resources)) <= set(_get_default_parameters())
            found = flags(sbatch(profile, resources))
            own = raw.get("actions", {})
            wanted = raw["resources"] | (own.get("evaluate", {}) if action == "answer" else {}) | own.get(action, {})
            assert found.get("partition") == wanted.get("partition")
            assert found.get("constraint") == wanted.get("constraint")
            assert found["cpus-per-task"] == str(wanted["cpus_per_task"])
            assert found["signal"] == f"USR2@{profile.signal_seconds}"
            if profile.cluster == "slurm":
                assert found["time"] == str(parse_time(wanted["time"]))
            if action == "train" and not single:
                assert found["nodes"] == str(wanted.get("nodes", 1))
                assert found["ntasks-per-node"] == str(wanted.get("gpus_per_node", 1))
                assert found.get("gpus-per-node") == (str(wanted["gpus_per_node"]) if "gpus_per_node" in wanted else None)
                assert ("exclusive" in found) == wanted.get("exclusive", False)
            else:
                assert (found["nodes"], found["ntasks-per-node"]) == ("1", "1")
                assert "exclusive" not in found
                assert found.get("gpus-per-node") == ("1" if "gpus_per_node" in wanted and action != "report" else None)


def test_the_default_is_a_named_example() -> None:
    assert load_profile(None) == load_profile("gpu-cluster")
    assert bundled_profiles() == ["cpu", "gpu-cluster", "local", "preemptible", "single-node"]
    assert load_profile(None).resources("train").describe() == "2 x 8 GPUs, 16 ranks, 24:00:00, partition gpu"
    assert load_profile("cpu").resources("train").describe() == "1 x 1 CPU, 1 rank, 02:00:00"


def test_a_file_of_a_bundled_name_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").write_text("resources: {time: 9m, cpus_per_task: 3}\nsignal_seconds: 60\n")
    monkeypatch.chdir(tmp_path)
    assert load_profile("cpu").resources("train").cpus_per_task == 1
    mine = load_profile("./cpu")
    assert (mine.resources("train").cpus_per_task, mine.source) == (3, "./cpu")


def test_only_training_has_many_tasks(tmp_path: Path) -> None:
    profile = load(tmp_path, FULL)
    train = profile.resources("train")
    assert (train.tasks, train.gpus, train.cpus, train.memory) == (16, 16, 192, 960 * 1024)
    for action, single in (("sample", False), ("evaluate", False), ("train", True)):
        one = profile.resources(action, single)  # type: ignore[arg-type]
        assert (one.tasks, one.gpus, one.cpus, one.memory, one.exclusive) == (1, 1, 12, 120 * 1024, False)
        same = ("partition", "account", "qos", "constraint", "reservation", "exclude", "time", "sbatch")
        assert [getattr(one, name) for name in same] == [getattr(train, name) for name in same]
    assert profile.resources("report").gpus == 0
    assert "gpus-per-node" not in flags(sbatch(profile, profile.resources("report")))


def test_actions_differ_where_they_say_so(tmp_path: Path) -> None:
    text = """
resources: {partition: gpu, constraint: h100, gpus_per_node: 8, memory: all, exclusive: true, time: 24h}
actions:
  train: {nodes: 4, gpus_per_node: 4}
  sample: {partition: small, memory: 10GB, gpus_per_node: 2, exclusive: true}
  report: {constraint: null, time: 30}
"""
    profile = load(tmp_path, text)
    train, sample, evaluate, answer, report = (profile.resources(action) for action in ACTIONS)
    assert (train.tasks, train.gpus, train.memory, train.partition) == (16, 16, 0, "gpu")  # ranks follow the GPUs
    assert flags(sbatch(profile, train))["mem"] == "0"  # SLURM's word for all
    assert (sample.partition, sample.memory, sample.gpus, sample.tasks, sample.exclusive) == ("small", 10240, 2, 1, True)
    assert (evaluate.memory, evaluate.exclusive, evaluate.gpus) == (None, False, 1)  # a whole node is not inherited
    assert answer == evaluate  # where the profile says nothing else
    assert (report.constraint, report.time, report.gpus, evaluate.constraint) == (None, 30, 0, "h100")
    assert hash(train) == hash(dataclasses.replace(train))


@pytest.mark.parametrize(
    ("train", "sample", "expected"),
    [
        # (train's gres, GPUs by number, ranks), (sample's gres, GPUs by number)
        ("gres: gpu:h100:8", "", (("gpu:h100:8", 0, 8), ("gpu:h100:1", 0))),
        ("gres: gpu:8", "", (("gpu:8", 0, 8), ("gpu:1", 0))),
        ("gres: gpu", "", (("gpu", 0, 1), ("gpu:1", 0))),
        ("gres: 'nvme:2,gpu:a100:4'", "", (("nvme:2,gpu:a100:4", 0, 4), ("nvme:2,gpu:a100:1", 0))),
        ("gpus_per_node: 4, gres: nvme:2", "", (("nvme:2", 4, 4), ("nvme:2", 1))),
        ("gres: gpu:h100:8", "gpus_per_node: 1", (("gpu:h100:8", 0, 8), (None, 1))),
        ("gpus_per_node: 8", "gres: gpu:h100:1", ((None, 8, 8), ("gpu:h100:1", 0))),
        ("gres: gpu:h100:8", "gres: null", (("gpu:h100:8", 0, 8), (None, 0))),
        ("gpus_per_node: 8, tasks_per_node: 2", "", ((None, 8, 2), (None, 1))),
        ("tasks_per_node: 2", "", ((None, 0, 2), (None, 0))),
    ],
)
def test_gpus_by_number_or_by_type(tmp_path: Path, train: str, sample: str, expected: tuple[Any, ...]) -> None:
    profile = load(tmp_path, f"resources: {{{train}, time: 1h}}\nactions: {{sample: {{{sample}}}}}")
    one, other, report = (profile.resources(action) for action in ("train", "sample", "report"))
    assert ((one.gres, one.gpus_per_node, one.tasks), (other.gres, other.gpus_per_node)) == expected
    assert report.gpus == 0
    assert "gpu" not in (report.gres or "")


def test_gpus_that_only_training_asks_for_are_scaled_down_for_the_rest(tmp_path: Path) -> None:
    profile = load(tmp_path, "resources: {time: 1h}\nactions: {train: {gres: 'gpu:h100:8'}}")
    assert profile.resources("sample").gres == "gpu:h100:1"
    assert profile.resources("report").gres is None


def test_containers_are_srun_s(tmp_path: Path) -> None:
    text = "resources: {time: 1h}\npython: python3\ncontainer: {image: /i/x.sqsh, mounts: ['/a:/b', '/c:/c:ro'], workdir: /w}"
    profile = load(tmp_path, text)
    train = profile.resources("train")
    arguments = profile.slurm_parameters(train, mounts=[Path("/runs")])["srun_args"]
    assert arguments[1:] == [
        "--container-image=/i/x.sqsh",
        "--container-mounts=/a:/b,/c:/c:ro,/runs:/runs",
        "--container-workdir=/w",
    ]
    assert profile.python == "python3"
    bare = load(tmp_path, "resources: {time: 1h}\ncontainer: {image: nvcr.io#nvidia/pytorch}")
    assert bare.slurm_parameters(train)["srun_args"][1:] == ["--container-image=nvcr.io#nvidia/pytorch"]


def test_threads_follow_the_cpus_of_a_task(tmp_path: Path) -> None:
    profile = load(tmp_path, "resources: {time: 1h, cpus_per_task: 6}\nactions: {sample: {cpus_per_task: 2}}")
    assert [profile.threads_of(action) for action in ACTIONS] == [6, 2, 6, 6, 6]
    fixed = load(tmp_path, "resources: {time: 1h, cpus_per_task: 6}\nthreads: 4")
    assert [fixed.threads_of(action) for action in ACTIONS] == [4] * len(ACTIONS)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("24:00:00", 1440), ("00:00:01", 1), ("00:01:00", 1), ("00:01:01", 2), ("100:00:00", 6000), ("2-00:00:00", 2880),
        ("1-02:03:04", 1564), ("90m", 90), ("24h", 1440), ("2d", 2880), (30, 30),
    ],
)  # fmt: skip
def test_times(text: object, minutes: int) -> None:
    assert parse_time(text) == minutes
    if isinstance(text, str) and ":" in text:  # the same in seconds, rounded up
        days, _, clock = text.rpartition("-")
        hours, whole, seconds = (int(part) for part in clock.split(":"))
        assert minutes == math.ceil((int(days or 0) * 86400 + hours * 3600 + whole * 60 + seconds) / 60)


@pytest.mark.parametrize("value", ["24:00", "1:2:3", "24:60:00", "1 day", "0m", "00:00:00", 0, -5, 1.5, True, "90", "inf", "-1h"])
def test_bad_times(value: object) -> None:
    with pytest.raises(UserError, match="must be a time such as"):
        parse_time(value)


def test_memory() -> None:
    sizes = {"64GB": 65536, "64G": 65536, "500MB": 500, "500M": 500, "2T": 2097152, "1 GB": 1024, "all": 0}
    assert {text: parse_memory(text) for text in sizes} == sizes
    for bad in ("64", 64, "0GB", "1.5GB", "64gb", "-1GB", "64KB", "GB", True, None):
        with pytest.raises(UserError, match="whole number with its unit"):
            parse_memory(bad)


@pytest.mark.parametrize("value", ["", "gpu:", "gpu:h100:x8", "gpu:1,gpu:2", "gpu 8", 8, "gpu:8,", "gpu:a:b:1"])
def test_bad_gres(value: object) -> None:
    with pytest.raises(UserError, match="for example gpu:h100:8"):
        parse_gres(value)


def test_shares_and_the_gpu_are_read_strictly(tmp_path: Path) -> None:
    profile = load(tmp_path, "resources: {time: 1h}\nshares: {sample: 8, answer: 2}\ngpu: h100\n")
    assert [profile.shares_of(action) for action in ACTIONS] == [1, 8, 1, 2, 1]
    assert profile.gpu == "h100"
    for text, said in [
        ("shares: {train: 2}", "shares: unknown key 'train'"),
        ("shares: {sample: 0}", "shares.sample=0: must be an integer >= 1"),
        ("gpu: voodoo", "gpu='voodoo': must be one of"),
    ]:
        with pytest.raises(UserError) as caught:
            load(tmp_path, f"resources: {{time: 1h}}\n{text}\n")
        assert said in str(caught.value)
