"""What ranks tell each other, against closed forms; how they meet; and who may not."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from rf_repro.compute import ranks as ranks_module
from rf_repro.compute.ranks import Ranks, joined_ranks
from rf_repro.core.errors import UserError
from tests.train.processes import Group, only_one, run_ranks
from tests.waiting import SECONDS, wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", range(8))
def test_shares_are_every_sample_once_in_order_and_even(size: int, count: int) -> None:
    shares = [list(range(count))[Ranks(rank, size).rows(count)] for rank in range(size)]
    assert [sample for share in shares for sample in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def operations(ranks: Ranks, folder: Path) -> dict[str, Any]:
    r, found = ranks.rank, {}
    found["rank"] = (ranks.rank, ranks.size, ranks.is_first)
    found["alone"] = only_one(ranks)
    grid = torch.arange(6.0).view(2, 3)
    tensors = [
        grid * (r + 1),
        torch.tensor([2**40 + r, -r]),
        (grid * (r + 1)).double().T,  # not contiguous
        torch.full((4, 5), float(r + 1), dtype=torch.bfloat16),
        torch.tensor(float(r)),
        torch.zeros(0),
    ]
    found["sums"] = [tensor.clone() for tensor in tensors]
    ranks.sum_(found["sums"])
    whole, ranks_module.BUCKET_BYTES = ranks_module.BUCKET_BYTES, 30  # a bucket for nearly every tensor
    found["small buckets"] = [tensor.clone() for tensor in tensors]
    ranks.sum_(found["small buckets"])
    ranks_module.BUCKET_BYTES = whole
    found["any"] = [ranks.any(False), *(ranks.any(r == one) for one in range(ranks.size)), ranks.any(True)]
    found["gathered"] = ranks.gather(torch.full((r, 2), r))  # the first rank has no row
    found["gathered evenly"] = ranks.gather(torch.tensor([[float(r)]]))
    found["first's"] = [torch.full((3,), float(r)), torch.tensor(r)]
    ranks.copy_first_(found["first's"])
    time.sleep(0.2 * r)
    (folder / f"came-{r}").touch()
    ranks.barrier()
    found["came"] = len(list(folder.glob("came-*")))
    return found


@pytest.mark.dist
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_operation_gives_its_closed_form_on_every_rank(size: int, tmp_path: Path) -> None:
    grid, total = torch.arange(6.0).view(2, 3), size * (size + 1) // 2
    sums = [
        grid * total,
        torch.tensor([size * 2**40 + total - size, size - total]),
        (grid * total).double().T,
        torch.full((4, 5), float(total), dtype=torch.bfloat16),
        torch.tensor(float(total - size)),
        torch.zeros(0),
    ]
    for rank, found in enumerate(run_ranks(operations, size, tmp_path, tmp_path)):
        assert found["rank"] == (rank, size, rank == 0)
        assert found["alone"] == (size == 1)
        for key in ("sums", "small buckets"):
            for tensor, expected in zip(found[key], sums, strict=True):
                assert tensor.dtype == expected.dtype
                assert torch.equal(tensor, expected)
        assert found["any"] == [False] + [True] * (size + 1)
        assert found["gathered"].tolist() == [[r, r] for r in range(size) for _ in range(r)]
        assert found["gathered evenly"].tolist() == [[float(r)] for r in range(size)]
        assert [tensor.tolist() for tensor in found["first's"]] == [[0.0, 0.0, 0.0], 0]
        assert found["came"] == size


def members(ranks: Ranks, name: int, folder: Path) -> list[int]:
    """Who answers, when every group is at work: nobody leaves before all have come."""
    (folder / f"at-work-{name}-{ranks.rank}").touch()
    wait_until(lambda: len(list(folder.glob("at-work-*"))) == 6)
    return ranks.gather(torch.tensor([name])).tolist()


@pytest.mark.dist
def test_groups_that_start_together_on_one_machine_do_not_meet_each_other(tmp_path: Path) -> None:
    fixed = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # the same for all, as a job's environment may have it
    groups = [Group(members, 2, tmp_path, name, tmp_path, environment=fixed) for name in range(3)]
    for name, group in enumerate(groups):
        assert group.wait() == [[name, name]] * 2
        assert not group.rendezvous.exists()  # removed when all had come


HELLO = """
import torch
from rf_repro.compute.ranks import joined_ranks

with joined_ranks() as ranks:
    everyone = ranks.gather(torch.tensor([10 + ranks.rank]))
    if ranks.is_first:
        print("met", everyone.tolist())
"""


@pytest.mark.dist
def test_torchrun_leads_to_the_same_place(tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text(HELLO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "met [10, 11]" in done.stdout


REFUSED = {
    "WORLD_SIZE=''": {"WORLD_SIZE": ""},
    "WORLD_SIZE='0': must be an integer >= 1": {"WORLD_SIZE": "0"},
    "RANK='': must be an integer from 0 to 1": {"WORLD_SIZE": "2"},
    "RANK='2': must be an integer from 0 to 1": {"WORLD_SIZE": "2", "RANK": "2"},
    "RANK='-1'": {"WORLD_SIZE": "2", "RANK": "-1"},
    "WORLD_SIZE=2: set RF_RENDEZVOUS": {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"},
    "old: exists already": {"WORLD_SIZE": "2", "RANK": "0", "RF_RENDEZVOUS": "{folder}/old"},
    "never: not there after 0 s": {"WORLD_SIZE": "2", "RANK": "1", "RF_RENDEZVOUS": "{folder}/never"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_environment_that_cannot_be_joined_is_refused_in_a_line(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RF_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in REFUSED[message].items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    monkeypatch.setattr(ranks_module, "RENDEZVOUS_SECONDS", 0.3)
    (tmp_path / "old").write_text("elsewhere 1\n")
    with pytest.raises(UserError) as error, joined_ranks():
        pytest.fail("joined")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not torch.distributed.is_initialized()


def test_alone_where_the_environment_tells_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks() as ranks:
        assert only_one(ranks)


def lose_the_first(ranks: Ranks) -> None:
    """The first rank is killed while the second waits for it."""
    assert timedelta(hours=1) <= ranks_module.PATIENCE  # it is not that which ends the waiting
    if ranks.is_first:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError):
        ranks.barrier()


@pytest.mark.dist
def test_a_rank_that_is_lost_ends_the_others_at_once(tmp_path: Path) -> None:
    group = Group(lose_the_first, 2, tmp_path)
    group.processes[1].join(SECONDS)
    assert group.processes[1].exitcode == 0
