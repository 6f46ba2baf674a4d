"""What a trained model has learned, as arrays to draw (paper section 4.5, D.7, D.8).

Attention comes as one array per block, (batch, heads, T, T) with rows that sum to
1. T = g * g patches in raster order, after the class token where the model has one:
which of the two it is follows from T.
"""

from collections.abc import Sequence

import keras
import numpy as np

from vit_tf import config, errors
from vit_tf.models import vit

_TINY = np.finfo(np.float64).tiny


def attention_weights(model: keras.Model, images) -> list[np.ndarray]:
    """Computes the attention of every block for `images` (batch,
    size, size, 3) in [-1, 1].

    Returns:
        One float32 array (batch, heads, T, T) per block, the first block first.
    """
    record = {}
    model(images, training=False, record=record)
    names = [vit.ATTENTION.format(i) for i in range(model.num_blocks)]
    return [keras.ops.convert_to_numpy(record[name]) for name in names]


def embedding_filters(kernel, *, components: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Computes principal components of the filters that see the image (Figure 7, left).

    Each filter is one point in the space of its pixels; the filters are centred on
    their mean. A component's sign, which PCA leaves open, makes its largest entry
    positive. The paper does not say how it scales them for the eye: here each one is
    spread over [0, 1] by its own smallest and largest entry.

    Args:
        kernel: (height, width, 3, filters), from `rgb_kernel`.
        components: how many, the strongest first; fewer where there are not so many.

    Returns:
        The components (number, height, width, 3) float64 in [0, 1], and the share of
        the filters' variance that each explains (number,).
    """
    kernel = keras.ops.convert_to_numpy(kernel).astype(np.float64)
    *shape, filters = kernel.shape
    points = kernel.reshape(-1, filters).T
    _, sizes, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    # Centring takes one dimension away: what is left in it is rounding.
    number = max(1, min(components, filters - 1, axes.shape[1]))
    axes, shares = axes[:number], sizes**2 / max((sizes**2).sum(), _TINY)
    largest = np.abs(axes).argmax(axis=1)[:, None]
    axes = axes * np.where(np.take_along_axis(axes, largest, 1) < 0, -1, 1)
    low = axes.min(axis=1, keepdims=True)
    spread = np.maximum(np.ptp(axes, axis=1)[:, None], _TINY)
    return ((axes - low) / spread).reshape(number, *shape), shares[:number]


def rgb_kernel(model: keras.Model) -> np.ndarray:
    """Returns the filters that see pixels, (height, width, 3, filters).

    Those of the patch embedding; of a hybrid or a ResNet, of its first convolution.
    """
    kernels = [v for v in model.variables if tuple(v.shape[2:3]) == (3,)]
    (kernel,) = [v for v in kernels if len(v.shape) == 4]
    return keras.ops.convert_to_numpy(kernel)


def position_table(model: keras.Model) -> np.ndarray:
    """Returns what the first position embedding adds to the tokens, (T, width) float32.

    Of any kind: learned, by row and column, or sines and cosines.

    Raises:
        errors.UserError: the model adds no positions.
    """
    check_tokens(model)
    if not model.positions:
        raise errors.UserError(
            f"{model.name}: adds no position embedding to its tokens (positions="
            f"{model.position_kind.value}), so there is nothing to compare"
        )
    nothing = keras.ops.zeros((1, model.num_tokens, model.width))
    return keras.ops.convert_to_numpy(model.positions[0](nothing))[0].astype("float32")


def check_tokens(model: keras.Model) -> None:
    """Refuses a network without tokens, which has no attention to look at."""
    if not hasattr(model, "num_tokens"):
        raise errors.UserError(
            f"{model.name}: a ResNet has no tokens, positions or attention; look at a "
            "ViT or a hybrid"
        )


def position_similarity(position_embedding) -> np.ndarray:
    """Computes the cosine of each patch's position embedding with all
    others (Figure 7, centre).

    Args:
        position_embedding: (1, T, width) or (T, width); the class token is left out.

    Returns:
        (g * g, g * g) float64 in [-1, 1]; row i as (g, g) is the picture of patch i.
    """
    table = keras.ops.convert_to_numpy(position_embedding).astype(np.float64)
    table = table.reshape(-1, table.shape[-1])
    _, first = grid_of(len(table))
    table = table[first:]
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    table = table / np.maximum(norms, _TINY)
    return table @ table.T


def attention_rollout(
    attentions: Sequence[np.ndarray], *, start: np.ndarray | None = None
) -> np.ndarray:
    """Computes how much of each input token reaches each output
    token (Figures 6, 14; D.7).

    Heads are averaged, half of the identity stands for the residual, and the
    blocks are multiplied, the last one leftmost.

    Args:
        attentions: one array (batch, heads, T, T) per block.
        start: the rollout of the blocks before these; None: these are the first.

    Returns:
        (batch, T, T) float64; row q sums to 1 over the input tokens.
    """
    rollout = np.eye(attentions[0].shape[-1]) if start is None else start
    for weights in attentions:
        mixed = np.mean(weights, axis=1, dtype=np.float64)
        rollout = (0.5 * mixed + 0.5 * np.eye(mixed.shape[-1])) @ rollout
    return rollout


def rollout_map(rollout: np.ndarray) -> np.ndarray:
    """Cuts out the part of a rollout that `rollout_reader`
    reads, on the grid of patches.

    With a class token that is its row, without the class token's own share; without
    one, the mean over all output tokens. That is what the classifier sees where
    pooling weighs tokens alike. Attention pooling does not, and its weights are no
    part of a rollout; a model that is not pooled classifies every token.

    Args:
        rollout: (batch, T, T), from `attention_rollout`.

    Returns:
        (batch, g, g) float64, not normalised.
    """
    side, first = grid_of(rollout.shape[-1])
    seen = rollout[:, 0, 1:] if first else rollout.mean(axis=1)
    return seen.reshape(-1, side, side)


def rollout_reader(model: keras.Model) -> str:
    """Says in words whose attention to the input `rollout_map` gives of a model."""
    if model.has_class_token:
        return "the class token"
    if model.pooling is config.Pool.GAP:
        return "the output (mean of all tokens)"
    return "the mean of all tokens"


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
    side, first = grid_of(attentions[0].shape[-1])
    place = np.stack(np.divmod(np.arange(side * side), side), axis=1) * patch_size
    pixels = np.linalg.norm(place[:, None] - place[None], axis=-1)  # (query, key)
    return np.stack(
        [
            np.einsum("qk,nhqk->h", pixels, np.asarray(weights)[:, :, first:, first:])
            / (len(weights) * side * side)
            for weights in attentions
        ]
    )


def attention_entropy(attentions: Sequence[np.ndarray]) -> np.ndarray:
    """Computes how widely tokens attend, in nats: 0 for one
    token, log T for all T alike.

    Args:
        attentions: one array (batch, heads, T, T) per block.

    Returns:
        (blocks, heads) float64: mean over all T query tokens and images.
    """
    entropies = []
    for weights in attentions:
        weights = np.asarray(weights, np.float64)
        # A weight of zero adds nothing; its logarithm does not exist.
        nats = -weights * np.log(np.maximum(weights, _TINY))
        entropies.append(nats.sum(axis=-1).mean(axis=(0, 2)))
    return np.stack(entropies)


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the unbiased Hilbert-Schmidt independence of two Gram
    matrices (n, n), n >= 4.

    Song et al. 2012, Feature Selection via Dependence Maximization, equation 5; it
    can be averaged over batches, as its expectation does not depend on n.
    """
    n = len(first)
    if n < 4:
        raise errors.UserError(f"comparing layers needs 4 images or more, got {n}")
    k, m = (np.array(gram, np.float64) for gram in (first, second))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    whole = k.sum() * m.sum() / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * (k.sum(axis=0) @ m.sum(axis=0))
    return float(((k * m).sum() + whole - crossed) / (n * (n - 3)))


def grid_of(tokens: int) -> tuple[int, int]:
    """Patches along one side, and the index of the first patch: 0, or 1 after cls."""
    for first in (0, 1):
        side = round((tokens - first) ** 0.5)
        if side and side * side + first == tokens:
            return side, first
    raise errors.UserError(
        f"{tokens} tokens: need a square of patches, alone or after a class token"
    )
