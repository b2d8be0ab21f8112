"""The processes that train one run together ("ranks"), how they find each other, and the few things they tell each other.

Every rank holds the same state, builds the same step and makes the same draws, then works on its own share of the samples.
What is summed, gathered or copied here comes out bit by bit alike on all of them, so their states stay alike.
"""

import gc
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rf_repro.core.errors import UserError
from rf_repro.core.files import write_text

PATIENCE = timedelta(hours=2)  # for a rank that is late: the first may sample for long while the others wait
RENDEZVOUS_SECONDS = 600.0  # for the first rank to say where it is: tasks of a job don't start together
BUCKET_BYTES = 256 * 2**20  # of one collective call: few calls, and a bounded copy of what is summed


@dataclass(frozen=True)
class Ranks:
    """This process among `size` that train together. Alone, everything is immediate and no process group is needed."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)  # None: that of the whole job

    @classmethod
    def alone(cls) -> "Ranks":
        """One process."""
        return cls()

    def apart(self) -> "Ranks":
        """The same ranks with a channel of their own, through the CPU: what a thread says there does not come between the words
        of training. Every rank calls it."""
        return Ranks(self.rank, self.size, dist.new_group(backend="gloo", timeout=PATIENCE)) if self.size > 1 else self

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This rank's share of `count` samples: contiguous, in rank order, sizes differ by one at most; may be empty."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. Goes through a CPU tensor, so that no accelerator is waited for."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, self.group)
        return bool(value)

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self.any(False)

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over ranks. The same shapes and dtypes in the same order on all of them."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat, group=self.group)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    @torch.no_grad()
    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by the first rank's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0, self.group)

    @torch.no_grad()
    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks in rank order, [n_0 + n_1 + ..., ...] from [n, ...]; numbers of rows may differ."""
        if self.size == 1:
            return tensor
        counts = [torch.tensor(0) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor(len(tensor)), self.group)
        padded = tensor.new_zeros(int(max(counts)), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, self.group)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def gather_objects(self, value: Any) -> list[Any]:
        """A JSON-ready value of every rank, in rank order."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(text)]))
        return [json.loads(bytes(part.tolist())) for part in self.gather(text).split(sizes.tolist())]


ALONE = Ranks.alone()


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors by dtype and device, in parts of at most BUCKET_BYTES (or one tensor)."""
    kinds: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
    for tensor in tensors:
        buckets = kinds.setdefault((tensor.dtype, tensor.device), [[]])
        if buckets[-1] and sum(held.nbytes for held in buckets[-1]) + tensor.nbytes > BUCKET_BYTES:
            buckets.append([])
        buckets[-1].append(tensor)
    return [bucket for buckets in kinds.values() for bucket in buckets]


@contextmanager
def joined_ranks(device: str = "cpu") -> Iterator[Ranks]:
    """Joins the other processes that the environment tells of, for the block; alone where it tells of none.

    WORLD_SIZE, RANK and LOCAL_RANK are torchrun's names, and jobs under srun export the same. Where RF_RENDEZVOUS is set, to a
    file on a shared file system that does not exist yet, the first rank listens on a port that is free and writes host and port
    there: no port is fixed in advance, so jobs that share a node cannot collide. Elsewhere MASTER_ADDR and MASTER_PORT say
    where to meet, which under torchrun is its agent.

    Args:
        device: auto, cpu, cuda or mps. Each rank of a node has a GPU of its own: the LOCAL_RANK-th of those it sees, or the
            only one that it was given.

    Raises:
        UserError: a variable is missing or impossible, the rendezvous file exists already or does not come within ten
            minutes, there are more ranks on the node than GPUs, or several on MPS.
    """
    size = _number("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        yield ALONE
        return
    rank = _number("RANK", 0, size - 1)
    uses_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if device == "mps" or (device == "auto" and not uses_cuda and torch.backends.mps.is_available()):
        raise UserError(f"WORLD_SIZE={size}: on MPS one process trains alone; start one, or give --device cpu")  # gloo lacks MPS
    if uses_cuda:
        _choose_gpu(_number("LOCAL_RANK", 0))
    backend = "cpu:gloo,cuda:nccl" if uses_cuda else "gloo"
    if rendezvous := os.environ.get("RF_RENDEZVOUS"):
        store = _meet(Path(rendezvous), rank)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        if rank == 0:
            Path(rendezvous).unlink()  # everyone is here
    elif os.environ.keys() >= {"MASTER_ADDR", "MASTER_PORT"}:
        dist.init_process_group(backend, init_method="env://", timeout=PATIENCE)
    else:
        raise UserError(f"WORLD_SIZE={size}: set RF_RENDEZVOUS to a new file that all ranks can read, or start with torchrun")
    ranks = Ranks(rank, size)
    try:
        ranks.barrier()  # a rank that ends while another one still connects takes that one down
        yield ranks
    finally:
        dist.destroy_process_group()
        gc.collect()  # their threads, alive when Python ends, aborted 2 of 18 quick jobs; collected, none of 41


def _number(name: str, low: int, high: int | None = None) -> int:
    """An integer from the environment."""
    text = os.environ.get(name, "")
    allowed = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        raise UserError(f"{name}={text!r}: must be {allowed} where WORLD_SIZE is set; torchrun sets it, or unset WORLD_SIZE")
    return int(text)


def _choose_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if count > 1 and local_rank >= count:
        raise UserError(f"LOCAL_RANK={local_rank}: this node shows {count} GPUs; start at most {count} ranks on a node")
    if count > 1:
        torch.cuda.set_device(local_rank)


def _meet(path: Path, rank: int) -> dist.TCPStore:
    """The store through which the ranks find each other, at a port of the kernel's choice."""
    if rank == 0:
        if path.exists():
            raise UserError(f"RF_RENDEZVOUS={path}: exists already, ranks may meet at its old port; name another file")
        host = socket.gethostname()
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        write_text(path, f"{host} {store.port}\n")
        return store
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"RF_RENDEZVOUS={path}: not there after {RENDEZVOUS_SECONDS:.0f} s; see the first rank's log, and whether the "
                "folder is shared by all nodes"
            )
        time.sleep(0.1)
    host, port = path.read_text(encoding="utf-8").split()
    return dist.TCPStore(host, int(port), is_master=False, timeout=PATIENCE)
