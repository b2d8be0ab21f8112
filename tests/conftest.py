"""Settings for every test: one thread, so that tests beside each other don't fight over cores, and `tests/support`, in
subprocesses too."""

import os
import runpy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SUPPORT = Path(__file__).parent / "support"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))
runpy.run_path(str(SUPPORT / "sitecustomize.py"))
