"""Which tokens a tensor of the model works for: what need not be loaded where there are none of them (paper Sec. 3.3).

Attention and its norms are every token's. All else is one pool's: text and images pass through the understanding pool, with the
encoder, the embedding and the head of text; representation tokens and pixels have pools and ways in and out of their own.
"""

import re

from rf_repro.model.layout import POOLS, Pool

_OWN = re.compile(rf"\.(?:pools|ffn_norms)\.({'|'.join(POOLS)})\.")
# What stands outside the pools, by the beginning of a name in RFModel.
_OUTSIDE: dict[str, Pool] = {
    "encoder.": "understanding", "connector.": "understanding", "image_position": "understanding", "text_": "understanding",
    "representation.": "representation", "pixels.": "pixel", "alignment.": "pixel",
}  # fmt: skip


def owner(name: str) -> Pool | None:
    """The pool whose tokens alone use a tensor of RFModel; None: all tokens use it.

    Raises:
        ValueError: the model has no tensor of that name.
    """
    if found := _OWN.search(name):
        return next(pool for pool in POOLS if pool == found[1])
    for beginning, pool in _OUTSIDE.items():
        if name.startswith(beginning):
            return pool
    if ".modulation." in name:
        return "pixel"
    if ".attention" in name:
        return None
    raise ValueError(f"{name}: belongs to no pool and is not attention's; say in rf_repro.model.pools whose it is")
