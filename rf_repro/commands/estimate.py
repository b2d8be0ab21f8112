"""`rf-repro estimate`: what training, or sampling and answering, would cost, before anything is queued."""

import argparse

from rf_repro.commands.options import Commands, add_command, add_set, add_tables, overrides
from rf_repro.config.overrides import apply_overrides
from rf_repro.config.scales import get_scale
from rf_repro.core.errors import UserError
from rf_repro.estimate.gpus import GPUS, get_gpu


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "estimate", "show parameters, FLOPs, memory and GPU hours; trains nothing",
                         "rf-repro estimate --scale paper --gpus 128 --gpu h200 --set parallel.shard_group=64")  # fmt: skip
    parser.add_argument("--scale", default="paper", metavar="NAME", help="size of the experiment (default: paper)")
    parser.add_argument("--inference", action="store_true",
                        help="of sampling and answering on one GPU, by --variant's model (default: of training)")  # fmt: skip
    parser.add_argument("--gpus", type=int, metavar="NUMBER", help="GPUs that train one run together; training needs it")
    parser.add_argument("--gpu", default="h200", metavar="NAME", help=f"{', '.join(GPUS)} (default: h200)")
    parser.add_argument(
        "--mfu", type=float, metavar="SHARE",
        help="model FLOPs over the GPUs' peak (default: 0.24, published for BAGEL on H100)",
    )  # fmt: skip
    add_tables(parser, "all", "tables of the paper, by comma, FILE.py:GRID for one of your own, or all (default: all)")
    parser.add_argument("--variant", default="pixel_rf", metavar="KEY", help="the run shown in detail (default: pixel_rf)")
    parser.add_argument("--json", action="store_true", help="print one JSON object: whole numbers of parameters, FLOPs, bytes")
    add_set(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return _inference(options) if options.inference else _training(options)


def _inference(options: argparse.Namespace) -> int:
    from ablations.registry import get_grids
    from rf_repro.estimate.plan import find_grid
    from rf_repro.estimate.show_inference import as_json, show

    if options.gpus is not None or options.mfu is not None:
        raise UserError("--inference: is of one GPU and training's own utilisation; leave out --gpus and --mfu")
    base = apply_overrides(get_scale(options.scale), overrides(options.set))
    variant = find_grid(options.variant, get_grids(options.tables, base)).variant(options.variant)
    config = variant.config(base)  # with every stage: trained to the largest size
    (as_json if options.json else show)(config, variant.key, get_gpu(options.gpu))
    return 0


def _training(options: argparse.Namespace) -> int:
    from ablations.registry import get_grids
    from rf_repro.estimate.fits import check_fits
    from rf_repro.estimate.plan import DEFAULT_MFU, Cluster, RunEstimate, estimate_plan, find_grid, own_stages
    from rf_repro.estimate.show import as_json, show

    if options.gpus is None:
        raise UserError("--gpus: is missing; say how many GPUs train one run together, for example --gpus 8")
    base = apply_overrides(get_scale(options.scale), overrides(options.set))
    cluster = Cluster(get_gpu(options.gpu), options.gpus, DEFAULT_MFU if options.mfu is None else options.mfu)
    tables = options.tables
    grid = find_grid(options.variant, get_grids(tables, base))
    detail = RunEstimate(options.variant, own_stages(grid.config(grid.variant(options.variant), base), cluster))
    plan = estimate_plan(base, tables, cluster)
    check_fits([detail, *plan.runs])
    (as_json if options.json else show)(detail, plan)
    return 0
