"""`rf-repro config`: a full config as YAML, or the difference between two."""

import argparse

import yaml

from rf_repro.commands.options import Commands, add_command, add_set, overrides
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.config.schema import ExperimentConfig
from rf_repro.core.shown import say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "config", "print a full config as YAML, or the fields in which two differ",
                         "rf-repro config tiny:table3a/pixel tiny:table3a/pixel_rf")  # fmt: skip
    parser.add_argument(
        "spec", metavar="SPEC", help="SCALE, or SCALE:TABLE/VARIANT, e.g. tiny:table3a/pixel_rf; TABLE may be FILE.py:GRID"
    )
    parser.add_argument("other", metavar="SPEC2", nargs="?", help="print only the fields in which the two differ")
    add_set(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    changes = overrides(options.set)
    first = _config(options.spec, {} if options.other else changes)
    if options.other is None:
        say(*yaml.safe_dump(first.to_dict(), sort_keys=False, width=130, default_flow_style=None).splitlines())
        return 0
    from ablations.grid import config_difference

    second = _config(options.other, changes)  # --set belongs to the last config named
    for path, (old, new) in config_difference(first.to_dict(), second.to_dict()).items():
        say(f"{path}: {old} -> {new}")
    return 0


def _config(spec: str, changes: dict[str, object]) -> ExperimentConfig:
    from ablations.registry import get_grid, row_config

    scale, _, row = spec.partition(":")
    base = apply_overrides(get_scale(scale), changes)
    if not row:
        return base
    file, colon, rest = row.rpartition(":")  # a file's own path may have slashes
    table, _, variant = rest.partition("/")
    name = file + colon + table
    return row_config(name, get_grid(name).variant(variant), base)
