"""Arrow columns as plain values: strict about types, and never larger in memory than the limits of one sample.

A dictionary column may name one large value millions of times, and Arrow's `as_py` would copy it each time; so values are
unwrapped here one by one, against a budget of bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rf_repro.core.untrusted.problems import MAX_IMAGE_BYTES, MAX_RECORD_BYTES, CorruptSample, shown

MAX_ITEMS = 10_000  # of one list; a conversation has fewer
ITEM_BYTES = 64  # that a value costs in memory besides its text


@dataclass(frozen=True)
class Columns:
    """Which columns of a file are read.

    Args:
        texts: of text, numbers, lists and mappings (`text_problem` finds none).
        images: of encoded images (`image_problem` finds none).
    """

    texts: Sequence[str]
    images: Sequence[str] = ()

    @property
    def needed(self) -> list[str]:
        return [*self.texts, *self.images]

    def record(self, columns: "pa.Table | pa.RecordBatch", row: int) -> dict[str, Any]:
        """Text columns of a row as plain values. Raises CorruptSample."""
        found = {}
        for name in self.texts:
            found[name], _ = _plain(columns[name][row], shown(name), MAX_RECORD_BYTES)
        return found

    def needs(self, path: tuple[str, ...]) -> bool:
        """Whether a leaf column is read: of an image's struct only `bytes`, of texts and conversations everything."""
        return path[1:] in ((), ("bytes",)) if path[0] in self.images else path[0] in self.texts

    def image_bytes(self, columns: "pa.Table | pa.RecordBatch", row: int, name: str = "") -> bytes:
        """The encoded image of a row, in the column `name` or else the first. Raises CorruptSample."""
        name = name or self.images[0]
        scalar = columns[name][row]
        if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
            scalar = scalar["bytes"]
        value, _ = _plain(scalar, shown(name), MAX_IMAGE_BYTES)
        if value is None:
            raise CorruptSample(f"{shown(name)} is null or a path; images must be stored as bytes")
        return value


ChooseColumns = Callable[[pa.Schema], Columns]  # raises CorruptSample when a column that is needed cannot be read


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def image_problem(kind: pa.DataType) -> str:
    """What is wrong with an image column's type; "" if nothing."""
    if pa.types.is_struct(kind):
        if kind.get_field_index("bytes") < 0:
            return f"{shown(kind)}, without a field bytes"
        kind = kind.field("bytes").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return "" if _is_binary(kind) else f"{shown(kind)}; images are binary, or struct<bytes: binary, path: string>"


def text_problem(kind: pa.DataType, depth: int = 0) -> str:
    """What is wrong with the type of a text or conversation column; "" if nothing."""
    if isinstance(kind, pa.BaseExtensionType):
        return f"of the extension type {shown(kind.extension_name)}; stored objects are never unpickled"
    if _is_binary(kind):
        return "binary, not text; stored objects are never unpickled"
    if depth > 6:
        return "nested too deeply"
    if pa.types.is_dictionary(kind):
        return text_problem(kind.value_type, depth + 1)
    if _is_list(kind):
        return text_problem(kind.value_type, depth + 1)
    if pa.types.is_struct(kind):
        return next(filter(None, (text_problem(kind.field(i).type, depth + 1) for i in range(kind.num_fields))), "")
    is_plain = _is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind)
    return "" if is_plain else f"{shown(kind)}; texts, and lists of messages are read"


def _plain(scalar: Any, what: str, budget: int) -> tuple[Any, int]:
    """A scalar as text, bytes, number, list or dictionary, and what is left of the budget.

    Raises:
        CorruptSample: it needs more bytes than the budget has, or a list is too long, or a text is not UTF-8.
    """
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    budget -= ITEM_BYTES
    if scalar is None or not scalar.is_valid:
        return None, budget
    if isinstance(scalar, pa.StructScalar):
        fields = {}
        for number in range(scalar.type.num_fields):
            fields[scalar.type.field(number).name], budget = _plain(scalar[number], what, budget)
        return fields, budget
    if isinstance(scalar, pa.ListScalar):
        items: list[Any] = []
        if len(scalar.values) > MAX_ITEMS:
            raise CorruptSample(f"{what} is a list of {len(scalar.values)}; at most {MAX_ITEMS} are read")
        for item in scalar.values:
            value, budget = _plain(item, what, budget)
            items.append(value)
        return items, budget
    if isinstance(scalar, pa.BinaryScalar):  # strings too
        budget -= scalar.as_buffer().size
    if budget < 0:
        raise CorruptSample(f"{what} is larger than one sample may be")
    try:
        return scalar.as_py(), budget
    except UnicodeDecodeError:
        raise CorruptSample(f"{what} is not UTF-8") from None
