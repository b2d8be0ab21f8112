"""Is it still known what is in the image, and where? A linear probe from an object's codes or features to its shape and colour.

Below about 0.85 for shape and 0.95 for colour, representation tokens carry too little to help generation (`tiny`'s gate).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROBE_SCENES = 8_000  # scenes probed, where the training set has as many
TRAIN_SHARE = 0.8
STEPS, BATCH = 600, 512
CODES_RATE, FEATURES_RATE = 2e-2, 1e-2


def nearest_cells(center: Tensor, grid: int, image_size: int) -> Tensor:
    """The 2x2 block of grid cells around each centre: float [n, 2] (x, y) in pixels -> int64 [n, 4], raster indices."""
    cell = image_size / grid
    first = ((center / cell - 1).round()).clamp(0, grid - 2).long()  # top-left cell of the block
    x, y = first.unbind(1)
    return torch.stack([(y + dy) * grid + x + dx for dy in (0, 1) for dx in (0, 1)], 1)


def probe_codes(
    codes: Tensor, shape: np.ndarray, color: np.ndarray, center: np.ndarray, codebook_size: int, image_size: int
) -> tuple[dict[str, float], int]:
    """Held-out accuracy of linear classifiers on the one-hot codes of the four cells nearest to each object.

    Args:
        codes: int64 [B, N] of B scenes.
        shape, color: int64 [B, M], -1 where there is no object; center: float [B, M, 2] in pixels.

    Returns:
        {"shape", "color"} accuracies in [0, 1], and the number of objects tested.
    """
    inputs = _of_objects(codes, shape, center, image_size) + torch.arange(4) * codebook_size

    def classifier(num_classes: int) -> nn.Module:
        return nn.EmbeddingBag(4 * codebook_size, num_classes, mode="sum")

    return _held_out_accuracy(inputs, shape, color, classifier, CODES_RATE)


def probe_features(
    features: Tensor, shape: np.ndarray, color: np.ndarray, center: np.ndarray, image_size: int
) -> tuple[dict[str, float], int]:
    """`probe_codes` for the features themselves: linear classifiers on the mean of the four nearest cells' features.

    The mean, because four cells side by side hold a picture of the object, which even raw pixels let a linear classifier read
    (shape .979 on `tiny`'s world); of their mean, raw pixels (.738) and a random encoder (.727) give far less than a trained one.

    Args:
        features: float [B, N, D], before the encoder's final norm, of a square grid of N cells.
    """
    inputs = _of_objects(features.float(), shape, center, image_size).mean(1)
    known = inputs[: _num_train(len(inputs))]
    inputs = (inputs - known.mean(0)) / known.std(0).clamp(min=1e-6)

    def classifier(num_classes: int) -> nn.Module:
        return nn.Linear(inputs.shape[1], num_classes)

    return _held_out_accuracy(inputs, shape, color, classifier, FEATURES_RATE)


def _of_objects(cells: Tensor, shape: np.ndarray, center: np.ndarray, image_size: int) -> Tensor:
    """What a scene's grid [B, N, ...] holds around each of its objects: [objects, 4, ...], scene by scene."""
    scene, slot = np.nonzero(shape >= 0)
    grid = int(cells.shape[1] ** 0.5)
    nearest = nearest_cells(torch.from_numpy(center[scene, slot]).float(), grid, image_size)
    return cells[torch.from_numpy(scene)[:, None], nearest]


def _num_train(num_objects: int) -> int:
    return int(TRAIN_SHARE * num_objects)  # scenes are in random order already


def _held_out_accuracy(
    inputs: Tensor, shape: np.ndarray, color: np.ndarray, classifier: Callable[[int], nn.Module], rate: float
) -> tuple[dict[str, float], int]:
    """Fits a linear classifier from zero for shape and one for colour, and tests them on the last fifth of the objects."""
    num_train = _num_train(len(inputs))
    accuracy = {}
    for name, labels in (("shape", shape), ("color", color)):
        targets = torch.from_numpy(labels[np.nonzero(shape >= 0)])
        generator = torch.Generator().manual_seed(0)
        model = classifier(int(targets.max()) + 1)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
        for _ in range(STEPS):
            rows = torch.randint(num_train, (BATCH,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            hits = model(inputs[num_train:]).argmax(1) == targets[num_train:]
        accuracy[name] = float(hits.float().mean())
    return accuracy, len(inputs) - num_train
