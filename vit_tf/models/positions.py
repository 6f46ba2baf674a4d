"""How tokens learn where they are: every position embedding of Table 8, and sincos.

Each layer adds a vector to every token. A class token, if there is one, is token 0.
Relative positions are no sum: they are part of the attention, see encoder.py.
"""

import keras
import numpy as np
from keras import ops

from vit_tf import config, errors


def _normal():
    return keras.initializers.RandomNormal(stddev=0.02)  # as in BERT: not truncated


@keras.saving.register_keras_serializable("vit_tf")
class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector per token (paper equation 1, D.4 '1-D')."""

    def __init__(self, tokens, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.width = tokens, width

    def build(self, input_shape=None):
        self.pos_embedding = self.add_weight(
            shape=(1, self.tokens, self.width),
            initializer=_normal(),
            name="pos_embedding",
        )

    def call(self, x):
        return x + self.pos_embedding


@keras.saving.register_keras_serializable("vit_tf")
class AxisEmbedding(keras.layers.Layer):
    """Adds half a vector for the column and half a vector for the row (D.4 '2-D').

    The paper does not say what the class token gets; here it is a vector of its own,
    as in 1-D.
    """

    def __init__(self, grid, width, class_token, **kwargs):
        super().__init__(**kwargs)
        if width % 2:
            raise errors.UserError(
                f"positions=2d: width {width} must be even, for a half each of column "
                "and row"
            )
        self.grid, self.width, self.class_token = grid, width, class_token

    def build(self, input_shape=None):
        half = (self.grid, self.width // 2)
        self.x_embedding = self.add_weight(
            shape=half, initializer=_normal(), name="x_embedding"
        )
        self.y_embedding = self.add_weight(
            shape=half, initializer=_normal(), name="y_embedding"
        )
        if self.class_token:
            self.cls_embedding = self.add_weight(
                shape=(1, self.width), initializer=_normal(), name="cls_embedding"
            )

    def call(self, x):
        shape = (self.grid, self.grid, self.width // 2)  # (row, column, half)
        columns = ops.broadcast_to(self.x_embedding[None], shape)
        rows = ops.broadcast_to(self.y_embedding[:, None], shape)
        table = ops.concatenate([columns, rows], axis=-1)
        table = ops.reshape(table, (self.grid**2, self.width))
        if self.class_token:
            table = ops.concatenate([ops.cast(self.cls_embedding, x.dtype), table], 0)
        return x + table


@keras.saving.register_keras_serializable("vit_tf")
class SineCosine(keras.layers.Layer):
    """Adds fixed sines and cosines of column and row ('Better plain ViT baselines').

    The class token gets none, as in the authors' later code.
    """

    def __init__(self, grid, width, class_token, **kwargs):
        super().__init__(**kwargs)
        if width % 4:
            raise errors.UserError(
                f"positions=sincos2d: width {width} must be a multiple of 4, for sine "
                "and cosine of column and row"
            )
        self.grid, self.width, self.class_token = grid, width, class_token

    def build(self, input_shape=None):
        table = sine_cosine_table(self.grid, self.width)
        if self.class_token:
            table = np.concatenate([np.zeros((1, self.width)), table])
        self._table = table.astype("float32")

    def call(self, x):
        return x + ops.cast(self._table, x.dtype)


def sine_cosine_table(grid: int, width: int) -> np.ndarray:
    """Computes (grid * grid, width) float64: [sin x w, cos x w, sin y w,
    cos y w], raster order.

    w falls from 1 to 1/10000 over width / 4 steps (big_vision's vit.py).
    """
    steps = width // 4
    frequencies = 1 / 10_000 ** (np.arange(steps) / max(steps - 1, 1))
    rows, columns = np.indices((grid, grid)).reshape(2, -1, 1)
    x, y = columns * frequencies, rows * frequencies
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def layers_for(
    positions, at, *, grid, width, class_token, depth, dtype
) -> list[keras.layers.Layer]:
    """Makes the layers that add positions: number i is for the tokens entering block i.

    The paper leaves open whether 'every layer' keeps the addition at the stem; here
    the first layer's is the stem's, so no token gets two (D.4).

    Args:
        positions: a `config.Positions`.
        at: a `config.PositionsAt`.
    """
    positions, at = config.Positions(positions), config.PositionsAt(at)
    make = {
        config.Positions.NOWHERE: None,
        config.Positions.RELATIVE: None,
        config.Positions.LEARNED_1D: lambda **name: PositionEmbedding(
            grid**2 + class_token, width, **name
        ),
        config.Positions.LEARNED_2D: lambda **name: AxisEmbedding(
            grid, width, class_token, **name
        ),
        config.Positions.SINCOS_2D: lambda **name: SineCosine(
            grid, width, class_token, **name
        ),
    }[positions]
    if make is None:
        if at is not config.PositionsAt.STEM:
            raise errors.UserError(
                f"model.positions_at={at.value}: positions={positions.value} adds "
                "nothing to tokens; leave positions_at=stem"
            )
        return []
    first = make(dtype=dtype, name="posembed_input")
    return {
        config.PositionsAt.STEM: lambda: [first],
        config.PositionsAt.EVERY: lambda: [
            first,
            *(make(dtype=dtype, name=f"posembed_{i}") for i in range(1, depth)),
        ],
        config.PositionsAt.SHARED: lambda: [first] * depth,
    }[at]()
