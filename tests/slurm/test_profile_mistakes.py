"""Profiles that are wrong: one line for every mistake."""

import re
from pathlib import Path

import pytest

from rf_repro.core.errors import UserError
from slurm.profile import load_profile
from tests.slurm.test_profile import write

TIMED = "resources: {time: 1h}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: {partiton: gpu}", "resources: unknown key 'partiton'; did you mean partition?"),
        ("resources: {zzz: 1}", "resources: unknown key 'zzz'; allowed: nodes, tasks_per_node, "),
        ("resource: {}", "unknown key 'resource'; did you mean resources?"),
        ("actions: {evalute: {}}", "actions: unknown key 'evalute'; did you mean evaluate?"),
        ("actions: {sample: {gpu_per_node: 1}}", "actions.sample: unknown key 'gpu_per_node'; did you mean gpus_per_node?"),
        ("container: {imag: x}", "container: unknown key 'imag'; did you mean image?"),
        ("x: 1", "unknown key 'x'; allowed: resources, actions, cluster, "),
        ("- a", "['a']: must be a mapping"),
        ("resources: 3", "resources=3: must be a mapping"),
        ("resources: {1: 2}", "resources: key 1: must be text; quote it"),
        ("cluster: pbs", "cluster='pbs': must be one of slurm, local"),
        ("device: tpu", "device='tpu': must be one of auto, cpu, cuda"),
        ("resources: {nodes: 0, time: 1h}", "resources.nodes=0: must be an integer >= 1"),
        ("resources: {nodes: '2', time: 1h}", "resources.nodes='2': must be an integer >= 1"),
        ("resources: {nodes: true, time: 1h}", "resources.nodes=True: must be an integer >= 1"),
        ("resources: {gpus_per_node: -1}", "resources.gpus_per_node=-1: must be an integer >= 0"),
        ("resources: {account: 12345}", "resources.account=12345: must be text; put it in quotes"),
        ("resources: {qos: ''}", "resources.qos='': must not be empty"),
        ('resources: {partition: "a\\nb"}', "resources.partition='a\\nb': must not hold line breaks"),
        ("resources: {constraint: [a]}", "resources.constraint=['a']: must be text"),
        ("resources: {exclusive: 1}", "resources.exclusive=1: must be true or false"),
        ("resources: {memory: 64}", "resources.memory=64: must be a whole number with its unit"),
        ("resources: {time: soon}", "resources.time='soon': must be a time such as"),
        ("resources: {reservation: 2026-01-01}", "no time limit for train"),  # a date is text
        ("resources: {gres: 'gpu:1', gpus_per_node: 1}", "resources.gres='gpu:1': asks for GPUs, as gpus_per_node does"),
        ("resources: {nodes: 1}", "no time limit for train: set resources.time"),
        ("actions: {train: {time: 1h}}", "no time limit for sample: set resources.time"),
        (TIMED + "actions: {sample: {nodes: 2}}", "actions.sample.nodes: only training runs as several tasks"),
        (TIMED + "actions: {report: {tasks_per_node: 2}}", "actions.report.tasks_per_node: only training runs as several"),
        (TIMED + "signal_seconds: 1800", "signal_seconds=1800: must be shorter than half the time limit of train (3600 s)"),
        (TIMED + "actions: {report: {time: 3m}}", "signal_seconds=120: must be shorter than half the time limit of report (180"),
        (TIMED + "signal_seconds: 0", "signal_seconds=0: must be an integer >= 1"),
        (TIMED + "max_crashes: -1", "max_crashes=-1: must be an integer >= 0"),
        (TIMED + "max_parallel: 0", "max_parallel=0: must be an integer >= 1"),
        (TIMED + "threads: 1.5", "threads=1.5: must be an integer >= 1"),
        (TIMED + "device: cuda", "device='cuda': train asks for no GPU"),
        (TIMED + "setup: module load", "setup='module load': must be a list"),
        (TIMED + "setup: [a, 3]", "setup.1=3: must be text"),
        (TIMED + 'setup: ["a\\nb"]', "setup.0='a\\nb': must not hold line breaks"),
        (TIMED + "setup: ['#SBATCH --array=0-9']", "setup.0='#SBATCH --array=0-9': is a flag of sbatch, not a command"),
        (TIMED + "environment: {A-B: x}", "environment: key 'A-B': must be a variable's name"),
        (TIMED + "environment: {A: yes}", "environment.A=True: must be text; put it in quotes"),
        (TIMED + "environment: {A: 1.10}", "environment.A=1.1: must be text; put it in quotes"),
        (TIMED + 'environment: {A: "x\\ty"}', "environment.A='x\\ty': must not hold line breaks or other control"),
        (TIMED + "container: {mounts: ['/a:/b']}", "container: image is missing"),
        (TIMED + "container: {image: x, mounts: ['/a:/a,/b:/b']}", "container.mounts.0='/a:/a,/b:/b': must not hold a comma"),
        ("resources: {sbatch: {array: 0-3}}", "resources.sbatch.array: --array is set by the submission itself"),
        ("resources: {sbatch: {arr: 0-3}}", "resources.sbatch.arr: --array is set by the submission itself"),
        ("resources: {sbatch: {open_mode: append}}", "resources.sbatch.open_mode: --open-mode is set by the submission"),
        ("resources: {sbatch: {no-requeue: true}}", "resources.sbatch.no-requeue: --no-requeue is set by the submission"),
        ("resources: {sbatch: {mem: 4G}}", "resources.sbatch.mem: --mem has a key of its own; use memory"),
        ("resources: {sbatch: {ntasks-per-node: 4}}", "resources.sbatch.ntasks-per-node: --ntasks-per-node has a key"),
        ("resources: {sbatch: {--nice: 1}}", "resources.sbatch: key '--nice': must be the long name of a flag"),
        ("resources: {sbatch: {p: gpu}}", "resources.sbatch: key 'p': must be the long name of a flag"),
        ("resources: {sbatch: {nice: 1.5}}", "resources.sbatch.nice=1.5: must be text, an integer, or true"),
        ("resources: {sbatch: {x-y: false}}", "resources.sbatch.x-y=False: must be text, an integer, or true"),
        ("cluster: local\nresources: {partition: gpu}", "resources.partition: has no meaning with cluster: local"),
        ("cluster: local\nactions: {sample: {memory: 1GB}}", "actions.sample.memory: has no meaning with cluster: local"),
        ("cluster: local\ncontainer: {image: x}", "container: has no meaning with cluster: local"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_file_key_value_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as refused:
        load_profile(str(path))
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("resources:\n  time: 24:00:00\n", 2, '24:00:00 without quotes is another number to YAML, .*; write "24:00:00"'),
        ("resources:\n  time: 1:30:00\n", 2, 'write "1:30:00"'),
        ("environment:\n  A: 010\n", 2, 'write "010"'),
        ("environment:\n  A: 0x10\n", 2, 'write "0x10"'),
        ("threads: 1\ndevice: cpu\nthreads: 2\n", 3, "key 'threads' is given twice"),
        ("resources: {a: 1\n", 2, "expected ',' or '}'"),
        ("a: b: c\n", 1, "mapping values are not allowed here"),
        ("a: 'open\n", 2, "found unexpected end of stream"),
        ("\tthreads: 1\n", 1, r"found character '\\t' that cannot start any token"),
        ("a: *nowhere\n", 1, "found undefined alias"),
        ("? [a, b]\n: 1\n", 1, "found unhashable key"),
    ],
)
def test_yaml_that_does_not_say_what_it_seems_to_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as refused:
        load_profile(str(path))
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"profile gpucluster: no such file; did you mean gpu-cluster\?"):
        load_profile("gpucluster")
    with pytest.raises(UserError, match=r"mine\.yaml: no such file; give a YAML file or a bundled example: cpu, gpu-cluster, "):
        load_profile(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="is a folder; name a plain file"):
        load_profile(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 near byte 0"):
        load_profile(str(tmp_path / "binary"))
    (tmp_path / "null").write_bytes(b"a: \0")
    with pytest.raises(UserError, match="not valid YAML") as refused:
        load_profile(str(tmp_path / "null"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("environment: {OPENAI_API_KEY: hunter2}", "environment: sets OPENAI_API_KEY"),
        ("environment: {RF_REPRO_API_KEY: hunter2}", "environment: sets RF_REPRO_API_KEY"),
        ("environment: {HF_TOKEN: hunter2}", "environment: sets HF_TOKEN"),
        ("environment: {aws_secret_access_key: hunter2}", "environment: sets aws_secret_access_key"),
        ("setup: [module load x, export OPENAI_API_KEY=hunter2]", "setup.1: sets OPENAI_API_KEY"),
        ("""setup: ["HF_TOKEN='hunter2' true"]""", "setup.0: sets HF_TOKEN"),
        ("resources: {time: 1h, sbatch: {export: 'ALL,WANDB_API_KEY=hunter2'}}", "resources.sbatch.export: sets WANDB_API_KEY"),
    ],
)
def test_a_profile_that_holds_a_secret_is_refused_without_telling_it(text: str, where: str, tmp_path: Path) -> None:
    whole = text if text.startswith("resources") else TIMED + text
    with pytest.raises(UserError, match=re.escape(f"{where}: a secret, ")) as error:
        load_profile(str(write(tmp_path, whole)))
    assert "hunter2" not in str(error.value)


def test_a_secret_that_the_job_reads_itself_is_none_of_the_profiles(tmp_path: Path) -> None:
    text = "environment: {TOKENIZERS_PARALLELISM: 'false'}\n"
    text += "setup: ['export OPENAI_API_KEY=$(cat ~/key)', 'export HF_TOKEN=\"$T\"']\n"
    assert load_profile(str(write(tmp_path, TIMED + text))).environment == {"TOKENIZERS_PARALLELISM": "false"}
