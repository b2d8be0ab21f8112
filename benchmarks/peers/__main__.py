"""Ours against peers, in one table: `python -m benchmarks.peers --out peers.json`.

Each contest is one run in alternation and gives medians: of the CPU time of one thread on a CPU, of wall time on CUDA. bf16 is
compared where the device has instructions for it. Nobody is faster by doing less: what each does is said in

    benchmarks/peers/training.py        a training step of the decoder, against transformers, transfusion-pytorch and BAGEL
    benchmarks/peers/decoding.py        representation tokens one after the other, against transformers and x-transformers
    benchmarks/peers/sampling.py        denoising one image, against no cache and transfusion-pytorch
    benchmarks/peers/quantisation.py    online VQ, against vector-quantize-pytorch

A peer that is not installed is a line without numbers; benchmarks/requirements.txt has them all but BAGEL, which is no package.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks.timing import default_device, provenance
from rf_repro.compute.arithmetic import has_bf16
from rf_repro.core.devices import resolve_device
from rf_repro.core.errors import UserError
from rf_repro.core.provenance import run_git

PEERS = ("torch", "transformers", "transfusion-pytorch", "x-transformers", "vector-quantize-pytorch")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=default_device().type, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--bagel", type=Path, metavar="FOLDER", help="a clone of https://github.com/ByteDance-Seed/Bagel")
    parser.add_argument("--smallest", action="store_true", help="everything as small as it runs: no measurement")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from benchmarks.peers import decoding, quantisation, sampling, training
    from benchmarks.peers.contest import SMALLEST, Row, Size, show

    size = SMALLEST if options.smallest else Size()
    try:
        device = resolve_device(options.device)
        record = {"benchmark": "peers", **provenance(device, PEERS), "size": asdict(size)}
        if options.bagel:
            record["versions"]["BAGEL"] = run_git(options.bagel, "rev-parse", "HEAD").decode().strip()
    except UserError as error:
        parser.error(str(error))
    dtypes = [torch.bfloat16, torch.float32] if has_bf16(device) else [torch.float32]
    contests: list[Callable[[], list[Row]]] = [partial(training.compare, size, device, one, options.bagel) for one in dtypes]
    contests += [partial(part.compare, size, device, one) for part in (decoding, sampling) for one in dtypes]
    contests.append(partial(quantisation.compare, size, device))
    rows: list[Row] = []
    for contest in contests:
        found = contest()
        rows += found
        print(show(found), end="\n\n", flush=True)
    if options.out:
        record["rows"] = [asdict(row) for row in rows]
        options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
