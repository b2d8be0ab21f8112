"""Which columns of an Arrow or Parquet file a source needs."""

from collections.abc import Sequence

import pyarrow as pa

from rf_repro.config.data_schema import SourceConfig
from rf_repro.core.untrusted.columns import Columns, image_problem, text_problem
from rf_repro.core.untrusted.problems import CorruptSample, shown
from rf_repro.data.shards.records import IMAGE_COLUMN, columns_of


def source_columns(source: SourceConfig, schema: pa.Schema) -> Columns:
    """Those that may hold text or conversation, in the schema's order, and the image's unless the source is of text alone.

    Raises:
        CorruptSample: a column is there twice, lacks, or is of a type that is not read.
    """
    texts = [name for name in dict.fromkeys(schema.names) if name in columns_of(source)]
    images = [] if source.task == "text" else [source.image_column or IMAGE_COLUMN]
    for image in images:
        if image not in schema.names:
            raise CorruptSample(f"has no column {shown(image)}; it has {_list(schema.names)}: set image_column")
    if not texts:
        wanted = " or ".join(map(shown, columns_of(source)))
        raise CorruptSample(f"has no column {wanted}; it has {_list(schema.names)}: set text_column or conversation_column")
    for name in [*texts, *images]:
        if schema.names.count(name) > 1:
            raise CorruptSample(f"has the column {shown(name)} {schema.names.count(name)} times")
        problem = image_problem(schema.field(name).type) if name in images else text_problem(schema.field(name).type)
        if problem:
            raise CorruptSample(f"column {shown(name)} is {problem}")
    return Columns(texts, images)


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:20])) or "none"
