"""Benchmarks as data sets of the Hugging Face hub, through the package `datasets`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from evaluators.understanding.benchmark import Benchmark
from evaluators.understanding.columns import number_images
from evaluators.understanding.record import Record
from rf_repro.core.errors import UserError
from rf_repro.core.hub import split_revision
from rf_repro.core.install import extra_hint
from rf_repro.core.untrusted.problems import CorruptSample


def read_hub(benchmark: Benchmark, name: str) -> Iterator[Record]:
    """The rows of the benchmark's split, of all its configurations one after another. Images stay encoded.

    Args:
        name: a hub id, of which `@revision` pins a commit, tag or branch; or a folder of files as a hub id holds them.

    Raises:
        UserError: the package is missing, or the data set cannot be had.
    """
    try:
        from datasets import Image, load_dataset  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"data='hub': needs the package datasets; {extra_hint('vlm')}, or name a folder of files") from None
    source, revision = split_revision(name)
    configs: tuple[str | None, ...] = (benchmark.configs if source in benchmark.hub else ()) or (None,)
    for config in configs:
        try:
            table = load_dataset(source, config, split=benchmark.split, revision=revision)
        except Exception as error:  # of the network, the hub, the disk or the files: many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            others = ", ".join(f"hub:{other}" for other in benchmark.hub if other != name)
            raise UserError(
                f"data='hub': {name}: {reason}; name a folder of files" + (f", or one of {others}" if others else "")
            ) from None
        images = [column for column, kind in table.features.items() if isinstance(kind, Image)]
        for column in images:
            table = table.cast_column(column, Image(decode=False))
        texts = table.remove_columns(images)
        for index in range(len(table)):
            where = f"{name}/{config}:{index}" if config else f"{name}:{index}"
            yield Record(where, "columns", texts[index], partial(_load, table, index, images))


def _load(table: Any, index: int, images: list[str]) -> dict[int, bytes]:
    row, found = table[index], {}
    for number, name in number_images(images).items():
        if row[name] is None:
            continue
        if row[name]["bytes"] is None:
            raise CorruptSample(f"{name} is a path; images must be stored as bytes")
        found[number] = row[name]["bytes"]
    return found
