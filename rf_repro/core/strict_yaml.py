"""YAML files of settings, read strictly: every mistake is one line with the file, the key, the value and what is allowed."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.plain_files import read_text
from rf_repro.core.untrusted.problems import MAX_DEPTH, MAX_DIGITS, MAX_YAML_BYTES, printable, shown

MAX_VALUES = 100_000  # of a file, those behind aliases counted wherever they are named
TOO_DEEP = f"nested too deeply, in more than {MAX_DEPTH} lists or mappings"
MERGE = "tag:yaml.org,2002:merge"  # of the key `<<`, which stands for no value


class YamlProblem(ValueError):
    """Why a text is refused; `line`: where, from 1, as far as it is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def parse_strict_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        YamlProblem: not YAML; a key given twice; a number in another form than plain decimal, or of more than
            `MAX_DIGITS` digits; nested deeper than `MAX_DEPTH`; or aliases that stand for more than `MAX_VALUES` values.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlProblem(printable(error.problem or error.context or "not valid YAML"), line) from None
    except yaml.YAMLError as error:
        raise YamlProblem(f"not valid YAML ({shown(' '.join(str(error).split()))})") from None
    except RecursionError:
        raise YamlProblem(TOO_DEEP) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # text that a tag such as !!float or !!bool cannot mean
        raise YamlProblem(f"not valid YAML ({type(error).__name__}: {shown(error)})") from None


def read_strict_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: as of `read_text` and `parse_strict_yaml`; one line with the file's name and the line's number.
    """
    try:
        return parse_strict_yaml(read_text(path, MAX_YAML_BYTES))
    except YamlProblem as problem:
        where, remedy = (f"{path}:{problem.line}", "; mend this line") if problem.line else (str(path), "")
        raise UserError(f"{where}: {problem}{remedy}") from None


class _Loader(yaml.SafeLoader):
    """Refuses what YAML accepts in silence: a key given twice, numbers but plain decimals, aliases without end."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _count(node, {}) > MAX_VALUES:
            problem = f"stands for more than {MAX_VALUES} values, by aliases of aliases for example"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, str] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            meant = key.tag if key.tag == MERGE else self.construct_object(key)
            if meant in seen:
                same = f"key {key.value!r} is given twice" + (f", first as {seen[meant]!r}" if seen[meant] != key.value else "")
                raise yaml.constructor.ConstructorError(None, None, same, key.start_mark)
            seen[meant] = key.value
        return super().construct_mapping(node, deep)

    def construct_plain_int(self, node: yaml.ScalarNode) -> int:
        self._check_plain(node, r"[-+]?(0|[1-9]\d*)")
        if len(node.value) > MAX_DIGITS:
            problem = f"an integer of {len(node.value)} digits, more than {MAX_DIGITS}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return self.construct_yaml_int(node)

    def construct_plain_float(self, node: yaml.ScalarNode) -> float:
        self._check_plain(node, r"[^:_]*")
        return self.construct_yaml_float(node)

    def construct_date_as_text(self, node: yaml.ScalarNode) -> str:
        return node.value

    def _check_plain(self, node: yaml.ScalarNode, pattern: str) -> None:
        if not re.fullmatch(pattern, node.value):
            problem = f"{shown(node.value)} without quotes is another number to YAML, in base 60 or 8 for example"
            remedy = f'write "{shown(node.value)}", or a number in plain decimals'
            raise yaml.constructor.ConstructorError(None, None, f"{problem}; {remedy}", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_plain_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_plain_float)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date_as_text)


def _count(node: yaml.Node, counted: dict[int, int], depth: int = 0) -> int:
    """Values that a node stands for, itself included. `counted`: by the nodes' ids, 0 while one is looked at.

    Raises:
        ConstructorError: a node is a part of itself, or lies too deep.
    """
    if depth >= MAX_DEPTH and not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, TOO_DEEP, node.start_mark)
    if id(node) not in counted:
        counted[id(node)] = 0
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        counted[id(node)] = 1 + sum(_count(part, counted, depth + 1) for part in parts)
    elif not counted[id(node)]:
        raise yaml.constructor.ConstructorError(None, None, "an alias stands within what it names", node.start_mark)
    return counted[id(node)]


@dataclass(frozen=True)
class Place:
    """Where in which file, for error messages."""

    file: str
    path: str = ""

    def at(self, key: object) -> "Place":
        return replace(self, path=f"{self.path}.{key}" if self.path else str(key))

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.file}: {self.path + ': ' if self.path else ''}{problem}")

    def refuse(self, value: Any, problem: object) -> UserError:
        return UserError(f"{self.file}: {self.path + '=' if self.path else ''}{value!r}: {problem}")

    def mapping(self, raw: Any, allowed: Sequence[str] | None = None) -> dict[str, Any]:
        """`raw` as a mapping with text keys, all of them allowed; null is an empty one."""
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            raise self.refuse(raw, "must be a mapping of keys to values")
        for key in raw:
            if not isinstance(key, str):
                raise self.error(f"key {key!r}: must be text; quote it")
            if allowed is not None and key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1)
                raise self.error(
                    f"unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}")
                )
        return raw

    def parse(self, parser: Callable[[Any], Any], value: Any) -> Any:
        """`parser(value)`, whose errors get this place and the value in front."""
        try:
            return parser(value)
        except UserError as error:
            raise self.refuse(value, error) from None


def parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError("must be text; put it in quotes")
    if not value.strip():
        raise UserError("must not be empty; remove the key, or write null")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise UserError("must not hold line breaks or other control characters")
    return value


def integer(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if type(value) is not int or value < least:
            raise UserError(f"must be an integer >= {least}")
        return value

    return parse


def parse_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise UserError("must be true or false")
    return value


def choice(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise UserError(f"must be one of {', '.join(allowed)}")
        return value

    return parse


def parse_texts(value: Any, place: Place, parser: Callable[[Any], str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise place.refuse(value, "must be a list")
    return tuple(place.at(index).parse(parser, item) for index, item in enumerate(value))
