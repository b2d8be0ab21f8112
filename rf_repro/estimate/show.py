"""An estimate as tables for people, or as JSON for programs."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from rf_repro.core.shown import say
from rf_repro.estimate.flops import Cost
from rf_repro.estimate.memory import is_sharded, shard_group
from rf_repro.estimate.plan import Plan, RunEstimate, StageEstimate, by_stage
from rf_repro.model.layout import POOL_OF

PLAIN_WIDTH = 120  # columns, where there is no terminal to ask

# What the paper does not say, or what is not a fact of the model. Printed with every estimate.
ASSUMED = (
    "means are of square images, sides drawn evenly from the stage's range, and of texts as long as data.caption_tokens or "
    "data.answer_tokens allow, all of it learned but captions; both parts of a pack are full, that of understanding and text "
    "being the same for every row",
    "memory is that of the pack that needs most, each part of one kind of sample, perhaps of the shortest texts; a rank assigns "
    "its own features to codes; 2 GB a GPU for CUDA and NCCL",
    "training alone: no data preparation, sampling, scoring, restarts",
)


def as_json(detail: RunEstimate, plan: Plan) -> None:
    """Prints one JSON object. Parameters, FLOPs and bytes are integers."""
    first = detail.stages[0]
    cluster, parameters = first.cluster, first.parameters
    parts = {name: {"total": part.total, "active": part.active} for name, part in parameters.parts.items()}
    data: dict[str, Any] = {
        "scale": first.config.scale,
        "variant": detail.name,
        "gpu": vars(cluster.gpu) | {"flops": round(cluster.gpu.flops)},
        "gpus": cluster.gpus,
        "parallel": vars(first.config.parallel) | {"shard_group": shard_group(first.config, cluster.gpus)},
        "mfu": cluster.mfu,
        "parameters": {
            "total": parameters.total,
            "active": parameters.active,
            "pools": {name.removeprefix("pool_"): part for name, part in parts.items() if name.startswith("pool_")},
            "parts": parts,
            "beside": parameters.beside,
        },
        "stages": [_stage(stage) for stage in detail.stages],
        "runs": [
            {
                "name": run.name, "tables": run.tables, "hours": run.hours, "gpu_hours": run.gpu_hours,
                "parameters": run.stages[-1].parameters.total, "stages": [_brief(stage) for stage in run.stages],
            }
            for run in plan.runs
        ],
        "tables": {
            table: {
                "gpu_hours": sum(run.gpu_hours for run in runs), "by_stage": by_stage(runs), "runs": [run.name for run in runs],
            }
            for table, runs in ((table, plan.of_table(table)) for table in plan.tables)
        },
        "gpu_hours_by_stage": by_stage(plan.runs),
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "not_estimated": list(plan.left_out),
        "assumed": list(ASSUMED),
    }  # fmt: skip
    say(*json.dumps(data, indent=1).split("\n"))


def _brief(stage: StageEstimate) -> dict[str, Any]:
    return {
        "name": stage.stage.name, "steps": stage.stage.steps, "tokens_per_step": round(stage.work.step_tokens),
        "step_seconds": stage.step_seconds, "tokens_per_second": stage.tokens_per_second, "hours": stage.hours,
        "gpu_hours": stage.gpu_hours, "peak_bytes": stage.memory.peak, "trained_parameters": stage.trained,
    }  # fmt: skip


def _stage(stage: StageEstimate) -> dict[str, Any]:
    return {
        **_brief(stage),
        "passes_per_step": stage.work.passes,
        "tokens_per_pass": {kind: stage.work.tokens(kind) for kind in POOL_OF},
        "step_flops": stage.step_flops * stage.cluster.gpus,
        "flops_per_rank": {name: {"forward": c.forward, "training": c.training} for name, c in stage.flops.items()},
        "memory": {
            "states": stage.memory.states,
            "phases": stage.memory.phases,
            "peak_phase": stage.memory.peak_phase,
            "pack": stage.memory.pack,
        },
    }


def show(detail: RunEstimate, plan: Plan) -> None:
    """Prints tables."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    config, cluster = detail.stages[0].config, detail.stages[0].cluster
    group, checkpointing = shard_group(config, cluster.gpus), config.parallel.activation_checkpointing
    console.print(
        f"scale {config.scale}, {cluster.gpus} x {cluster.gpu.name} ({cluster.gpu.memory / 1e9:.0f} GB, "
        f"{cluster.gpu.flops / 1e12:.0f} bf16 TFLOP/s), "
        f"{f'FSDP2 over {group} GPUs' if is_sharded(config, cluster.gpus) else 'not sharded'}, "
        f"activations {'computed again' if checkpointing else 'kept'}, MFU {cluster.mfu:g}\n"
    )
    for table in (_parameters_table(detail), _flops_table(detail), _memory_table(detail), _plan_table(plan), _tables_table(plan)):
        console.print(table.title)
        table.title = None  # which would be wrapped to the table's width
        console.print(table, "")
    for name in plan.left_out:
        console.print(f"{name}: trained in-suite, not estimated")
    console.print("Assumed: " + "; ".join(ASSUMED) + ".")


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, show_edge=False, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _name(name: str) -> str:
    return name.replace("_", " ")


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _parameters_table(run: RunEstimate) -> Table:
    parameters = run.stages[0].parameters
    table = _table(f"Parameters of {run.name}, millions", "part", "total", "active for a token")
    for name, part in sorted(parameters.parts.items(), key=lambda item: -item[1].total):
        table.add_row(_name(name), _millions(part.total), _millions(part.active))
    table.add_row("model", _millions(parameters.total), "")
    for kind, active in parameters.active.items():
        table.add_row(f"used by {'an' if kind == 'image' else 'a'} {kind} token", "", _millions(active))
    for stage in run.stages:
        table.add_row(f"trained in stage {stage.stage.name}", _millions(stage.trained), "")
    for name, total in parameters.beside.items():
        table.add_row(f"beside it: {_name(name)}", _millions(total), "")
    return table


def _flops_table(run: RunEstimate) -> Table:
    columns = [text for stage in run.stages for text in (f"{stage.stage.name} forward", "training")]
    table = _table(f"TFLOP of a GPU's part of a step, {run.name}", "part", *columns)
    for name in dict.fromkeys(name for stage in run.stages for name in stage.flops):
        table.add_row(_name(name), *(text for stage in run.stages for text in _teraflops(stage.flops.get(name))))
    totals = [Cost(sum(cost.forward for cost in stage.flops.values()), stage.step_flops) for stage in run.stages]
    table.add_row("step", *(text for total in totals for text in _teraflops(total)))
    return table


def _teraflops(cost: Cost | None) -> tuple[str, str]:
    return (f"{cost.forward / 1e12:,.2f}", f"{cost.training / 1e12:,.2f}") if cost else ("", "")


def _memory_table(run: RunEstimate) -> Table:
    table = _table(f"GB of a GPU at the step's peak, {run.name}", "component", *(stage.stage.name for stage in run.stages))
    peaks = [stage.memory.at_peak for stage in run.stages]
    for name in dict.fromkeys(name for peak in peaks for name in peak):
        table.add_row(_name(name), *(f"{peak[name] / 1e9:,.2f}" if name in peak else "" for peak in peaks))
    table.add_row("peak", *(f"{stage.memory.peak / 1e9:,.2f}" for stage in run.stages))
    table.add_row("reached in phase", *(stage.memory.peak_phase for stage in run.stages))
    table.add_row("with a pack of", *(stage.memory.pack for stage in run.stages))
    table.add_row("free", *(f"{(stage.cluster.gpu.memory - stage.memory.peak) / 1e9:,.2f}" for stage in run.stages))
    return table


def _plan_table(plan: Plan) -> Table:
    table = _table("Every run once, one after another on all GPUs (Mtok: million tokens of all GPUs)", "run", "stage", "steps",
                   "Mtok/step", "s/step", "Mtok/s", "GB/GPU", "hours", "GPU hours")  # fmt: skip
    for run in plan.runs:
        for stage in run.stages:
            table.add_row(
                run.name, stage.stage.name, f"{stage.stage.steps:,}", f"{stage.work.step_tokens / 1e6:,.3g}",
                f"{stage.step_seconds:,.3g}", f"{stage.tokens_per_second / 1e6:,.3g}", f"{stage.memory.peak / 1e9:,.1f}",
                _hours(stage.hours), _hours(stage.gpu_hours),
            )  # fmt: skip
    table.add_row("total", "", "", "", "", "", "", _hours(plan.hours), _hours(plan.gpu_hours))
    return table


def _tables_table(plan: Plan) -> Table:
    """Runs that several tables share count in each."""
    stages = list(by_stage(plan.runs))
    table = _table("GPU hours of each table alone, and of all runs together", "table", "runs", *stages, "all stages")
    for name, runs in [(name, plan.of_table(name)) for name in plan.tables] + [("every run once", plan.runs)]:
        hours = by_stage(runs)
        table.add_row(name, f"{len(runs)}", *(_hours(hours.get(stage, 0)) for stage in stages), _hours(sum(hours.values())))
    return table
