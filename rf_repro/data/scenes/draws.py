"""Counter-based random numbers: a draw is a hash of (stream, index, draw number), so it depends on nothing else.

A scene is the same whether it is asked for alone, in a batch or in another process. The mixer is SplitMix64's finaliser.
"""

import numpy as np

from rf_repro.core.hashing import derive_seed

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio: spreads consecutive counters over 64 bits


def stream_keys(stream: tuple[int | str, ...], indices: np.ndarray) -> np.ndarray:
    """One key a scene.

    Args:
        stream: names the family of scenes, e.g. `("train", config.seed)`.
        indices: int64 [N], >= 0.

    Returns:
        uint64 [N].
    """
    start = np.uint64(derive_seed("scenes", *stream))
    return _mix(start + (indices.astype(np.uint64) + np.uint64(1)) * _GAMMA)


def uniform(keys: np.ndarray, draws: np.ndarray | int) -> np.ndarray:
    """Float64 in [0, 1): draw number `draws` of each key, broadcast against each other."""
    counter = (np.atleast_1d(draws).astype(np.uint64) + np.uint64(1)) * _GAMMA
    return (_mix(keys + counter) >> np.uint64(11)) * 2.0**-53


def choice(keys: np.ndarray, draws: np.ndarray | int, options: np.ndarray | int) -> np.ndarray:
    """Int64 uniform in [0, options); `options` broadcasts too."""
    return (uniform(keys, draws) * options).astype(np.int64)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
