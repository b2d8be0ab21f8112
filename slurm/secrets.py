"""Keys and passwords do not belong into a profile: it is shared, and job scripts hold what it says, for all to read."""

import re
from collections.abc import Iterator
from typing import Any

from rf_repro.core.strict_yaml import Place

_SECRET = re.compile(r"(?:^|_)(?:\w*API_?KEY|ACCESS_KEY|PRIVATE_KEY|TOKEN|SECRET|PASSWORD|PASSWD)(?:_|$)", re.IGNORECASE)
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(?![\"']?\$)[\"']?[^\s\"']")  # a value, not what a command or a variable gives


def refuse_secrets(raw: Any, place: Place) -> None:
    """Raises UserError, without the value, where a profile sets a variable by whose name it is a secret."""
    for where, name in _set(raw, place):
        if _SECRET.search(name):
            raise where.error(f"sets {name}: a secret, which job scripts would hold; export it where you submit: jobs inherit it")


def _set(raw: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Each variable that a profile sets anywhere: keys of mappings, and NAME=VALUE in texts."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield place, str(key)
            yield from _set(value, place.at(key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from _set(value, place.at(index))
    elif isinstance(raw, str):
        yield from ((place, match[1]) for match in _ASSIGNED.finditer(raw))
