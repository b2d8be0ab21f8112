"""Damages files of strangers, reads them, and lists what went wrong: a traceback, a hang, a gigabyte, an error that is no line.

`make fuzz` runs 20,000 mutants; `python -m tests.fuzz --only 1234 --seed 0` runs one again.
"""

import argparse
import sys
import time
from collections import Counter

from rich.progress import track

from tests.fuzz.engine import Finding, fuzz
from tests.fuzz.targets import TARGETS

TOLD = 1000  # mutants, where there is no bar


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000, metavar="N", help="how many (default: 20,000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--only", type=int, metavar="INDEX", help="one mutant of the seed")
    parser.add_argument("--targets", default="", metavar="NAMES", help="by comma; mutants keep their numbers (default: all)")
    options = parser.parse_args()
    names = options.targets.split(",") if options.targets else [target.name for target in TARGETS]
    wanted = range(options.mutants) if options.only is None else [options.only]
    chosen = [index for index in wanted if TARGETS[index % len(TARGETS)].name in names]
    begin, found = time.monotonic(), list[Finding]()
    for done, outcome in enumerate(track(fuzz(TARGETS, chosen, options.seed), "mutants", len(chosen)), start=1):
        if outcome is not None:
            found.append(outcome)
            print(f"mutant {outcome.index}: {outcome.kind}", flush=True)
        if done % TOLD == 0 and not sys.stdout.isatty():
            print(f"{done} mutants, {len(found)} findings", flush=True)
    for kind, count in Counter(one.kind for one in found).most_common():
        first = next(one for one in found if one.kind == kind)
        print(f"{count} x {kind}\n  first {first.index}: {first.damage}")
        print("  " + first.what.replace("\n", "\n  "))
    print(f"{len(chosen)} mutants in {time.monotonic() - begin:.0f} s: {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
