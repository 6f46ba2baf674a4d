"""Attention, the encoder block, and the attention-pooling head, in keras.ops only."""

import math

import keras
import numpy as np
from keras import ops

from vit_tf.models import layers


@keras.saving.register_keras_serializable("vit_tf")
class Attention(keras.layers.Layer):
    """Multi-head attention (paper appendix A), of tokens to themselves or to others.

    Args:
        width: of a token.
        num_heads: divides `width`.
        dropout: share of attention weights dropped.
        relative_tokens: T makes the scores know the distance of query and key (D.4
            'relative'): scaled query times a learned vector for each of the 2 T - 1
            offsets in the flattened sequence, class token included, is added before
            the softmax. One table per layer, shared by its heads: the paper does not
            say.
    """

    def __init__(self, width, num_heads, dropout=0.0, relative_tokens=None, **kwargs):
        super().__init__(**kwargs)
        self.width, self.num_heads, self.dropout = width, num_heads, dropout
        self.relative_tokens = relative_tokens
        split = (num_heads, width // num_heads)
        policy = self.dtype_policy
        self.query = layers.Linear((width,), split, dtype=policy, name="query")
        # The bias of the keys adds the same number to all scores of a query, which
        # the softmax takes out again: its gradient is zero. What arithmetic leaves
        # of it is rounding noise, and Adam, which divides by the gradient's own
        # size, would walk on it at full speed, on each machine somewhere else.
        self.key = layers.Linear(
            (width,), split, bias_learns=False, dtype=policy, name="key"
        )
        self.value = layers.Linear((width,), split, dtype=policy, name="value")
        self.out = layers.Linear(split, (width,), dtype=policy, name="out")

    def build(self, input_shape=None):
        for layer in (self.query, self.key, self.value, self.out):
            layer.build()
        if self.relative_tokens:
            self.relative = self.add_weight(
                shape=(2 * self.relative_tokens - 1, self.width // self.num_heads),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                name="relative",
            )

    def call(self, x, context=None, keys=None):
        """Attends from `x` to `context`, or to `x` itself.

        Args:
            x: (batch, T, width).
            context: (batch, S, width) or None.

        Returns:
            (batch, T, width), and the weights (batch, heads, T, S) float32.
        """
        context = x if context is None else context
        query = self.query.to_heads(x) * (self.width // self.num_heads) ** -0.5
        key = self.key.to_heads(context)
        value = self.value.to_heads(context)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        if self.relative_tokens:
            scores += by_offset(ops.matmul(query, ops.transpose(self.relative)))
        weights = ops.softmax(ops.cast(scores, "float32"))  # (batch, heads, T, S)
        used = layers.dropout(
            ops.cast(weights, value.dtype), self.dropout, keys, layers.WEIGHTS
        )
        return self.out.from_heads(ops.matmul(used, value)), weights


def by_offset(x):
    """Rearranges (..., T, 2 T - 1), by query and offset, to
    (..., T, T), by query and key.

    Offset m stands for the key at query + m - (T - 1). Padding every row by one
    shifts row q by q places once the rows are cut anew: no gather.
    """
    tokens = x.shape[-2]
    lead = (-1, *x.shape[1:-2])
    x = ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[0, 1]])
    x = ops.reshape(x, (*lead, 2 * tokens * tokens))
    x = x[..., tokens - 1 : tokens - 1 + tokens * (2 * tokens - 1)]
    return ops.reshape(x, (*lead, tokens, 2 * tokens - 1))[..., :tokens]


@keras.saving.register_keras_serializable("vit_tf")
class EncoderBlock(keras.layers.Layer):
    """Pre-norm attention and MLP, each with a residual (paper equations 2, 3).

    Args:
        drop_rate: stochastic depth, the share of images without a branch; each of the
            two branches draws for itself.
        rescale: see `layers.drop_branch`.
        relative_tokens: see `Attention`.
        axis: 'rows' or 'columns' lets tokens attend along one axis of their square
            grid only (paper D.6); None: to all.
    """

    def __init__(
        self,
        width,
        mlp_dim,
        num_heads,
        dropout=0.0,
        attention_dropout=0.0,
        drop_rate=0.0,
        rescale=True,
        relative_tokens=None,
        axis=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width, self.mlp_dim, self.num_heads = width, mlp_dim, num_heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.drop_rate, self.rescale, self.axis = drop_rate, rescale, axis
        self.relative_tokens = relative_tokens
        policy = self.dtype_policy
        # The authors' numbers: one counter over all kinds of layer in a block.
        self.attention_norm = layers.LayerNorm(width, dtype=policy, name="LayerNorm_0")
        self.attention = Attention(
            width,
            num_heads,
            attention_dropout,
            relative_tokens,
            dtype=policy,
            name="MultiHeadDotProductAttention_1",
        )
        self.mlp_norm = layers.LayerNorm(width, dtype=policy, name="LayerNorm_2")
        self.mlp = layers.MlpBlock(
            width, mlp_dim, dropout, dtype=policy, name="MlpBlock_3"
        )

    def build(self, input_shape=None):
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build()

    def call(self, x, keys=None):
        """Tokens (batch, T, width) to the same, and the attention's weights.

        Those are (batch, heads, T, T) float32, along an axis of g tokens only the
        (batch * g, heads, g, g) that exist; `full_weights` spreads them.
        """
        y, weights = self._attend(self.attention_norm(x), keys)
        y = layers.dropout(y, self.dropout, keys, layers.ATTENDED)
        x = x + self._branch(y, keys, layers.ATTENTION_BRANCH)
        y = self.mlp(self.mlp_norm(x), keys=keys)
        return x + self._branch(y, keys, layers.MLP_BRANCH), weights

    def full_weights(self, weights):
        """Spreads the weights of one call to (batch, heads, T, T), zero off the axis."""
        if self.axis is None:
            return weights
        g = weights.shape[-1]
        weights = ops.reshape(weights, (-1, g, self.num_heads, g, g))
        line = np.eye(g, dtype="float32")
        spread = {"rows": "nlhqk,lm->nhlqmk", "columns": "nlhqk,lm->nhqlkm"}[self.axis]
        full = ops.einsum(spread, weights, line)
        return ops.reshape(full, (-1, self.num_heads, g * g, g * g))

    def _branch(self, y, keys, site):
        return layers.drop_branch(y, self.drop_rate, keys, site, rescale=self.rescale)

    def _attend(self, x, keys):
        if self.axis is None:
            return self.attention(x, keys=keys)
        g = math.isqrt(x.shape[1])
        grid = self._turn(ops.reshape(x, (-1, g, g, self.width)))
        y, weights = self.attention(ops.reshape(grid, (-1, g, self.width)), keys=keys)
        y = self._turn(ops.reshape(y, (-1, g, g, self.width)))
        return ops.reshape(y, (-1, g * g, self.width)), weights

    def _turn(self, grid):
        """Puts the axis to attend along last but one; its own inverse."""
        return ops.transpose(grid, (0, 2, 1, 3)) if self.axis == "columns" else grid


@keras.saving.register_keras_serializable("vit_tf")
class MapHead(keras.layers.Layer):
    """Pools by attention of one learned probe to all tokens
    ('Scaling ViT', 2106.04560).

    Named as in the authors' later files (big_vision's). Float32 throughout.
    """

    def __init__(self, width, mlp_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.mlp_dim, self.num_heads = width, mlp_dim, num_heads
        policy = self.dtype_policy
        self.attention = Attention(
            width, num_heads, dtype=policy, name="MultiHeadDotProductAttention_0"
        )
        self.norm = layers.LayerNorm(width, dtype=policy, name="LayerNorm_0")
        self.mlp = layers.MlpBlock(width, mlp_dim, dtype=policy, name="MlpBlock_0")

    def build(self, input_shape=None):
        self.probe = self.add_weight(
            shape=(1, 1, self.width), initializer="glorot_uniform", name="probe"
        )
        for layer in (self.attention, self.norm, self.mlp):
            layer.build()

    def call(self, tokens):
        """Tokens (batch, T, width) to (batch, width)."""
        probe = ops.cast(self.probe, tokens.dtype)
        probe = layers.for_each_image(probe, tokens)
        x, _ = self.attention(probe, tokens)
        return (x + self.mlp(self.norm(x)))[:, 0]
