"""What every Transformer here is made of: matrices, norms, MLP, stateless dropout.

Layers are named and shaped as the arrays of the authors' released files, with the
epsilons and the initialisation of their vit_jax, in keras.ops only.
Each layer that drops takes `keys`; no layer owns a seed.
"""

import math

import keras
from keras import ops

LAYER_NORM_EPSILON = 1e-6  # Keras would take 1e-3

# Places in one encoder block where something is drawn, and their number.
WEIGHTS, ATTENDED, HIDDEN, MLP_OUT, ATTENTION_BRANCH, MLP_BRANCH, SITES = range(7)


class Given(keras.random.SeedGenerator):
    """Hands `keras.random` one given key; owns no variable, unlike its parent."""

    def __init__(self, key):
        self._key = key

    def next(self, ordered=True):
        # JAX takes unsigned keys, TensorFlow signed ones.
        kind = {"jax": "uint32"}.get(keras.backend.backend(), "int32")
        return ops.cast(ops.convert_to_tensor(self._key, "int32"), kind)


def dropout(x, rate, keys, site):
    """Applies inverted dropout with the mask that `keys[site]` alone decides."""
    if keys is None or not rate:
        return x
    # In bfloat16 the draws would have 7 bits and the rate would be off.
    draws = keras.random.uniform(ops.shape(x), dtype="float32", seed=Given(keys[site]))
    return ops.where(draws >= rate, x / (1 - rate), ops.zeros_like(x))


def for_each_image(token, x):
    """Repeats a token (1, 1, width) for each image of `x` (batch, .., width)."""
    if (batch := ops.shape(x)[0]) is None:  # a symbolic call: how many is not known
        return token + ops.zeros_like(x[:, :1])
    return ops.broadcast_to(token, (batch, 1, token.shape[-1]))


def drop_branch(x, rate, keys, site, *, rescale=True):
    """Leaves the branch `x` out for a share `rate` of the images: stochastic depth.

    Args:
        x: (batch, T, width), what would be added to the residual stream.
        rescale: divides what is kept by 1 - rate, so that the expected sum is that
            of evaluation. The authors' only public form (MLP-Mixer) does not.
    """
    if keys is None or not rate:
        return x
    draws = keras.random.uniform(
        (ops.shape(x)[0], 1, 1), dtype="float32", seed=Given(keys[site])
    )
    kept = x / (1 - rate) if rescale else x
    return ops.where(draws >= rate, kept, ops.zeros_like(x))


def _flattened(initializer, rows: int):
    """Wraps `initializer`, which is for a matrix, for a kernel of more axes.

    Keras would take fan-in and fan-out from the unflattened shape; the authors'
    bounds are those of the flattened matrix.
    """

    def initialize(shape, dtype=None):
        return ops.reshape(initializer((rows, math.prod(shape) // rows), dtype), shape)

    return initialize


@keras.saving.register_keras_serializable("vit_tf")
class Linear(keras.layers.Layer):
    """`x @ kernel + bias`, where either side of the kernel may have several axes.

    The kernel keeps the released shape, input axes then output axes, such as
    (width, heads, head_width).
    """

    def __init__(
        self,
        input_axes,
        output_axes,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        bias_learns=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bias_learns = bias_learns
        self.input_axes, self.output_axes = tuple(input_axes), tuple(output_axes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape=None):
        self.kernel = self.add_weight(
            shape=self.input_axes + self.output_axes,
            initializer=_flattened(self.kernel_initializer, math.prod(self.input_axes)),
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=self.output_axes, initializer=self.bias_initializer, name="bias"
        )

    def call(self, x):
        """Maps (..., product of the input axes) to (..., product of the output axes)."""
        matrix = (math.prod(self.input_axes), math.prod(self.output_axes))
        x = ops.matmul(x, ops.reshape(self.kernel, matrix))
        return x + ops.reshape(self._bias(), (-1,))

    def to_heads(self, x):
        """Splits (batch, T, width) into (batch, heads, T, head_width)."""
        if self._for_accelerators:
            x = ops.einsum("btw,whd->bhtd", x, self.kernel)
            return x + ops.expand_dims(self._bias(), 1)
        x = ops.reshape(self(x), (-1, x.shape[1], *self.output_axes))
        return ops.transpose(x, (0, 2, 1, 3))

    def from_heads(self, x):
        """Joins (batch, heads, T, head_width) to (batch, T, width)."""
        if self._for_accelerators:
            return ops.einsum("bhtd,hdw->btw", x, self.kernel) + self._bias()
        x = ops.transpose(x, (0, 2, 1, 3))
        return self(ops.reshape(x, (-1, x.shape[1], math.prod(self.input_axes))))

    @property
    def _for_accelerators(self):
        """Whether axes stay as they are in the product.

        What runs in bfloat16 runs on accelerators, and a TPU copies an array to
        merge or split axes: an eighth of a step's memory traffic (docs/scale.md).
        On a CPU one flat matrix is faster.
        """
        return self.compute_dtype != "float32"

    def _bias(self):
        return self.bias if self.bias_learns else ops.stop_gradient(self.bias)

    def get_config(self):
        return super().get_config() | {
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bias_learns": self.bias_learns,
        }


@keras.saving.register_keras_serializable("vit_tf")
class LayerNorm(keras.layers.Layer):
    """Over the last axis, in float32 whatever the compute dtype."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape=None):
        shape = (self.width,)
        self.scale = self.add_weight(
            shape=shape, initializer="ones", autocast=False, name="scale"
        )
        self.bias = self.add_weight(
            shape=shape, initializer="zeros", autocast=False, name="bias"
        )

    def call(self, x):
        if self.compute_dtype in ("float32", "float64"):
            return ops.layer_normalization(
                x, self.scale, self.bias, epsilon=LAYER_NORM_EPSILON
            )
        # Mean and variance from one reading of x, as the authors' code has it: a TPU
        # reads 38 MB less per norm of ViT-B/16 (batch 128). What the difference of
        # two squares loses is far below what bfloat16 has lost in x already.
        y = ops.cast(x, "float32")
        mean = ops.mean(y, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(y), axis=-1, keepdims=True) - ops.square(mean)
        inverse = ops.rsqrt(ops.maximum(variance, 0.0) + LAYER_NORM_EPSILON)
        scale = inverse * self.scale
        return ops.cast(y * scale + (self.bias - mean * scale), x.dtype)


@keras.saving.register_keras_serializable("vit_tf")
class MlpBlock(keras.layers.Layer):
    """Two matrices around a GELU (paper section 3.1)."""

    def __init__(self, width, mlp_dim, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.mlp_dim, self.dropout = width, mlp_dim, dropout
        self.grow = self._linear(width, mlp_dim, "Dense_0")
        self.shrink = self._linear(mlp_dim, width, "Dense_1")

    def _linear(self, inputs, outputs, name):
        bias = keras.initializers.RandomNormal(stddev=1e-6)
        return Linear(
            (inputs,),
            (outputs,),
            bias_initializer=bias,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape=None):
        self.grow.build()
        self.shrink.build()

    def call(self, x, keys=None):
        # The tanh form: the one that the released weights were trained with.
        x = keras.activations.gelu(self.grow(x), approximate=True)
        x = dropout(x, self.dropout, keys, HIDDEN)
        return dropout(self.shrink(x), self.dropout, keys, MLP_OUT)


@keras.saving.register_keras_serializable("vit_tf")
class PatchEmbedding(Linear):
    """The strided convolution of the paper, in float32 as one product over patches.

    The same numbers and the same (patch, patch, 3, width) kernel. On a CPU the product
    is 15 % faster forward and backward; on a TPU cutting the patches out costs seven
    copies of the images (docs/scale.md).
    """

    def __init__(self, patch_size, width, channels=3, **kwargs):
        super().__init__(
            (patch_size, patch_size, channels),
            (width,),
            kernel_initializer="lecun_normal",
            **kwargs,
        )
        self.patch_size, self.width, self.channels = patch_size, width, channels

    def call(self, images):
        """Maps images (batch, height, width, channels) to (batch, patches, width).

        Patches in raster order; height and width are multiples of the patch.
        """
        size, channels = self.patch_size, self.channels
        rows, columns = images.shape[1] // size, images.shape[2] // size
        if self._for_accelerators:
            x = ops.conv(images, self.kernel, strides=size, data_format="channels_last")
            # Added behind the reshape, the bias turns the layout of all tokens on a
            # TPU, which copies queries, keys and values for it (docs/scale.md).
            return ops.reshape(x + self._bias(), (-1, rows * columns, self.width))
        x = ops.reshape(images, (-1, rows, size, columns, size, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return super().call(
            ops.reshape(x, (-1, rows * columns, size * size * channels))
        )

    def get_config(self):
        base = keras.layers.Layer.get_config(self)
        return base | {
            "patch_size": self.patch_size,
            "width": self.width,
            "channels": self.channels,
        }
