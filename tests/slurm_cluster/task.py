"""One rank of a job step, for test_cluster.py: says what reaches it, `NAME signal RANK`, until SIGTERM ends it with status 0."""

import os
import signal
import sys
import time
from types import FrameType

RANK = os.environ["SLURM_PROCID"]


def heard(signum: int, frame: FrameType | None) -> None:
    print(f"{signal.Signals(signum).name} rank {RANK}", flush=True)
    if signum == signal.SIGTERM:
        sys.exit(0)


if __name__ == "__main__":
    for kind in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(kind, heard)
    print(f"up rank {RANK} pid {os.getpid()}", flush=True)
    while True:
        time.sleep(0.1)
