"""Which combinations of the position and color_attr tasks training never shows, so that their prompts test composition.

A meaning, not a caption, is held out: "a circle left of a square" and its mirror "a square right of a circle" go
together, as do the two orders of an attribute caption. Of a held-out relation no training caption speaks in either
wording (the two shapes may stand so in scenes whose caption is silent about it). Of a held-out attribute combination there
is no training scene at all, whatever its caption, because dense captions name every colour.

Every part stays in training: each shape pair keeps at least half its relations, on both axes; each pair of shapes and each
(colour, shape) binding keeps colour combinations. Shares are equal over shape pairs up to rounding, and rotate over
relations and colours. The split depends on the numbers of shapes and colours and on the share, not on the seed.
"""

from itertools import combinations

from rf_repro.config.data_schema import ScenesConfig
from rf_repro.data.scenes.grammar import RELATIONS, Prompt

Meaning = tuple[int, int, int, int]  # lower shape, higher shape; then relation and -1, or the two shapes' colours


def meaning(prompt: Prompt) -> Meaning:
    """One value for all captions that describe the same scenes; for position and color_attr prompts."""
    (a, b), (color_a, color_b), relation = prompt.shapes, prompt.colors, prompt.relation
    if a > b:
        a, b, color_a, color_b, relation = b, a, color_b, color_a, (relation + 2) % 4
    return (a, b, relation, -1) if prompt.tag == "position" else (a, b, color_a, color_b)


class HeldOut:
    """The split of one world; `prompt in held_out` says whether the prompt is kept from training."""

    def __init__(self, config: ScenesConfig) -> None:
        pairs = list(combinations(range(len(config.shapes)), 2))
        self.relations: set[Meaning] = set()
        for number in range(round(config.held_out * len(RELATIONS) * len(pairs))):
            turn, place = divmod(number, len(pairs))
            self.relations.add((*pairs[place], (place + turn) % len(RELATIONS), -1))

        # Diagonal by diagonal each colour comes once first and once second, so bindings lose equally many combinations.
        count = len(config.colors)
        diagonals = [(i, (i + step) % count) for step in range(1, count) for i in range(count)]
        total = round(config.held_out * len(diagonals) * len(pairs))
        self.attributes: set[Meaning] = set()
        for number, pair in enumerate(pairs):
            share = total * (number + 1) // len(pairs) - total * number // len(pairs)
            start = number * (count + 1)
            paints = [diagonals[(start + offset) % len(diagonals)] for offset in range(share)]
            self.attributes |= {(*pair, *paint) for paint in paints}

    def __contains__(self, prompt: Prompt) -> bool:
        if prompt.tag == "position":
            return meaning(prompt) in self.relations
        return prompt.tag == "color_attr" and meaning(prompt) in self.attributes
