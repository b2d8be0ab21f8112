"""Signals that announce an end: a flag while the work goes on, nothing once it is done."""

import subprocess
import sys

CODE = """
import os, signal
from rf_repro.launch.jobs import StopSignals
signals = StopSignals()
{done}
os.kill(os.getpid(), signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGTERM)
print(signals(), signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN, signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
"""


def run(done: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", CODE.format(done=done)], capture_output=True, text=True)


def test_a_signal_is_a_flag() -> None:
    assert run("").stdout == "True False False\n"


def test_after_the_work_signals_do_nothing_even_while_python_ends() -> None:
    """Python gives handlers of its own back to the system as it ends, where SIGUSR2 kills; what is ignored stays so."""
    done = run("signals.ignore()")
    assert (done.returncode, done.stdout) == (0, "False True True\n")
