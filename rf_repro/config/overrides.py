"""Overrides: dotted paths to values, the form in which a variant or a scale differs from its base.

`stages` is a tuple of named stages, so a path names the stage: `stages.joint.steps`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rf_repro.config.schema import ExperimentConfig
from rf_repro.config.training_schema import StageConfig
from rf_repro.core.errors import UserError
from rf_repro.core.run_dir import RunDir
from rf_repro.core.strict_yaml import YamlProblem, parse_strict_yaml

C = TypeVar("C")


def apply_overrides(config: C, overrides: Mapping[str, Any]) -> C:
    """The config with each dotted path set to its value.

    Raises:
        UserError: unknown path, wrong type, a value equal to the present one (a no-op hides a mistake), or a value
            the schema refuses.
    """
    tree: dict[str, Any] = {}
    for path, value in overrides.items():
        *groups, last = path.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise UserError(f"{path}: overlaps another override; set each field once")
        if last in node:
            raise UserError(f"{path}: overlaps another override; set each field once")
        node[last] = _Leaf(value)
    return _apply(config, tree, "")


@dataclass(frozen=True)
class _Leaf:
    """An override's value, told apart from a group of overrides."""

    value: Any


def parse_override(text: str) -> tuple[str, Any]:
    """`"stages.joint.steps=200"` -> `("stages.joint.steps", 200)`; the value is read as YAML."""
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise UserError(f"--set {text!r}: must be PATH=VALUE, for example representation.codebook_size=1024")
    try:
        return path.strip(), parse_strict_yaml(value)
    except YamlProblem as problem:
        raise UserError(f"--set {text!r}: the value as YAML: {problem}") from None


def _apply(node: Any, tree: dict[str, Any], prefix: str) -> Any:
    """`node` with a tree of overrides, rebuilt once, so that values that are only valid together are checked together."""
    if _is_stages(node):
        named = {stage.name: stage for stage in node}
        for key, below in tree.items():
            if key not in named:
                raise UserError(f"{prefix}{key}: unknown stage {key!r}; there are {', '.join(named)}")
            if isinstance(below, _Leaf):
                raise UserError(f"{prefix}{key}: name a field of the stage, for example {prefix}{key}.steps")
            named[key] = _apply(named[key], below, f"{prefix}{key}.")
        return tuple(named.values())
    changes = {}
    names = [item.name for item in fields(node)]
    for key, below in tree.items():
        path = prefix + key
        if key not in names:
            raise UserError(f"{path}: unknown field {key!r}; allowed here: {', '.join(names)}")
        present = getattr(node, key)
        is_group = is_dataclass(present) or _is_stages(present)
        if isinstance(below, _Leaf):
            if is_group:
                raise UserError(f"{path}: is a group of fields; name one of them")
            value = _coerce(below.value, get_type_hints(type(node))[key], path)
            if value == present:
                raise UserError(f"{path}={value!r}: already has this value; an override must change something")
            changes[key] = value
        elif is_group:
            changes[key] = _apply(present, below, f"{path}.")
        else:
            raise UserError(f"{path}: {key!r} is a value and has no field {next(iter(below))!r}")
    return replace(node, **changes)


def _is_stages(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], StageConfig)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """`value` as the annotated type; int -> float and list -> tuple are the only conversions."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{path}={value!r}: must be one of {', '.join(map(str, args))}")
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(arg for arg in args if arg is not type(None)), path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{path}={value!r}: must be a list")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UserError(f"{path}={value!r}: must have {len(kinds)} items")
        if is_dataclass(args[0]):
            return tuple(_item(item, args[0], f"{path}[{index}]") for index, item in enumerate(value))
        return tuple(_coerce(item, kind, path) for item, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 5e-5 as text
        with suppress(ValueError):
            if math.isfinite(number := float(value)):
                return number
    if type(value) is not hint:
        raise UserError(f"{path}={value!r}: must be {hint.__name__}, not {type(value).__name__}")
    return value


def _item(value: Any, kind: Any, path: str) -> Any:
    """A dataclass of a tuple, from itself or from a mapping of its fields; what the mapping leaves out has its default."""
    if isinstance(value, kind):
        return value
    hints = get_type_hints(kind)
    if not isinstance(value, dict) or not set(value) <= set(hints):
        raise UserError(f"{path}={value!r}: must be a mapping of {', '.join(hints)}")
    lacking = [item.name for item in fields(kind) if item.default is MISSING and item.name not in value]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}")
    return kind(**{name: _coerce(held, hints[name], f"{path}.{name}") for name, held in value.items()})


def from_dict(data: Any) -> ExperimentConfig:
    """The inverse of `ExperimentConfig.to_dict`. Strict: an unknown or missing key raises UserError; only a field that joined
    after the config was written may be missing, and is at its default."""
    return _build(ExperimentConfig, data, "config")


def config_of(run: RunDir) -> ExperimentConfig:
    """The config of a run. Raises UserError, naming the file, where this version cannot have it."""
    data = run.config()
    try:
        return from_dict(data)
    except UserError as error:
        raise UserError(f"{run.config_path}: {error}") from None


def _build(kind: Any, data: Any, path: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        later = {item.name for item in fields(kind) if item.metadata.get("later")}
        if not isinstance(data, dict) or not set(hints) - later <= set(data) <= set(hints):
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise UserError(f"{path}: fields do not match this version of rf_repro: found {found}, expected {sorted(hints)}")
        return kind(**{name: _build(hint, data[name], f"{path}.{name}") for name, hint in hints.items() if name in data})
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
        if not isinstance(data, list | tuple):
            raise UserError(f"{path}: must be a list")
        return tuple(_build(get_args(kind)[0], item, f"{path}[{index}]") for index, item in enumerate(data))
    return _coerce(data, kind, path)
