"""A model that answers by a function: for scores that are known beforehand."""

from collections.abc import Callable, Sequence
from typing import Any

from evaluators.vlm.protocol import Parts


class Scripted:
    """Says what `reply` returns for the parts.

    Probabilities: 1 for the groups that hold what it says, whatever its capitals and outer spaces, else 0.

    Args:
        name: its revision is `scripted: name`; two scripts with one name are taken for one model.
    """

    def __init__(self, reply: Callable[[Parts], str], name: str = "script") -> None:
        self._reply = reply
        self.revision = f"scripted: {name}"
        self.settings: dict[str, Any] = {}

    def answer(self, batch: Sequence[Parts], max_new_tokens: int) -> list[str]:
        """The replies whole: what a token is, a script does not know."""
        return [self._reply(parts) for parts in batch]

    def choice_probabilities(self, batch: Sequence[Parts], choices: Sequence[Sequence[Sequence[str]]]) -> list[list[float]]:
        rows = []
        for parts, groups in zip(batch, choices, strict=True):
            said = _plain(self._reply(parts))
            rows.append([float(said in {_plain(spelling) for spelling in group}) for group in groups])
        return rows


def _plain(text: str) -> str:
    return text.strip().lower()
