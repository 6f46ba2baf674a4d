"""What a trained model has learned, as arrays to draw (paper section 4.5, D.7, D.8).

Attention comes as one array per block, (batch, heads, T, T) with rows that sum to
1. T = g * g patches in raster order, after the class token where the model has one:
which of the two it is follows from T.
"""

from collections.abc import Sequence

import keras
import numpy as np

from vit_tf import config
from vit_tf.models import vit


def attention_weights(model: keras.Model, images) -> list[np.ndarray]:
    """Attention of every block for `images` (batch, size, size, 3) in [-1, 1].

    Returns:
        One float32 array (batch, heads, T, T) per block, the first block first.
    """
    record = {}
    model(images, training=False, record=record)
    names = [vit.ATTENTION.format(i) for i in range(model.num_blocks)]
    return [keras.ops.convert_to_numpy(record[name]) for name in names]


def position_similarity(position_embedding) -> np.ndarray:
    """Cosine of each patch's position embedding with all others (Figure 7, centre).

    Args:
        position_embedding: (1, T, width) or (T, width); the class token is left out.

    Returns:
        (g * g, g * g) float64 in [-1, 1]; row i as (g, g) is the picture of patch i.
    """
    table = keras.ops.convert_to_numpy(position_embedding).astype(np.float64)
    table = table.reshape(-1, table.shape[-1])
    _, first = _grid(len(table))
    table = table[first:]
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    table = table / np.maximum(norms, np.finfo(np.float64).tiny)
    return table @ table.T


def attention_rollout(attentions: Sequence[np.ndarray]) -> np.ndarray:
    """How much of each input token reaches each output token (Figures 6, 14; D.7).

    Heads are averaged, half of the identity stands for the residual, and the
    blocks are multiplied, the last one leftmost.

    Returns:
        (batch, T, T) float64; row q sums to 1 over the input tokens.
    """
    rollout = np.eye(attentions[0].shape[-1])
    for weights in attentions:
        mixed = np.asarray(weights, np.float64).mean(axis=1)
        rollout = (0.5 * mixed + 0.5 * np.eye(mixed.shape[-1])) @ rollout
    return rollout


def rollout_map(rollout: np.ndarray) -> np.ndarray:
    """The part of a rollout that the classifier sees, on the grid of patches.

    With a class token that is its row, without the class token's own share. A
    model with global average pooling has no such row: there it is the mean over
    all output tokens, since pooling weighs them alike.

    Args:
        rollout: (batch, T, T), from `attention_rollout`.

    Returns:
        (batch, g, g) float64, not normalised.
    """
    side, first = _grid(rollout.shape[-1])
    seen = rollout[:, 0, 1:] if first else rollout.mean(axis=1)
    return seen.reshape(-1, side, side)


def mean_attention_distance(
    attentions: Sequence[np.ndarray], *, patch_size: int
) -> np.ndarray:
    """Pixels between a patch and what it attends to (Figure 7, right; Figure 11).

    The class token's row and column are left out after the softmax and the rest
    is not normalised again, as the authors do.

    Args:
        attentions: one array (batch, heads, T, T) per block.
        patch_size: pixels from one patch to the next.

    Returns:
        (blocks, heads) float64: mean over query patches and images.
    """
    side, first = _grid(attentions[0].shape[-1])
    place = np.stack(np.divmod(np.arange(side * side), side), axis=1) * patch_size
    pixels = np.linalg.norm(place[:, None] - place[None], axis=-1)  # (query, key)
    return np.stack(
        [
            np.einsum("qk,nhqk->h", pixels, np.asarray(weights)[:, :, first:, first:])
            / (len(weights) * side * side)
            for weights in attentions
        ]
    )


def _grid(tokens: int) -> tuple[int, int]:
    """Patches along one side, and the index of the first patch: 0, or 1 after cls."""
    for first in (0, 1):
        side = round((tokens - first) ** 0.5)
        if side and side * side + first == tokens:
            return side, first
    raise config.Refused(
        f"{tokens} tokens: need a square of patches, alone or after a class token"
    )
