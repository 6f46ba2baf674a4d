"""Standardised convolutions and group norms, and the ResNet that hybrids start with.

The hybrids' ResNet is version 1 (normalise and ReLU after the convolution; the
stride sits on the 3 x 3) with the names and epsilons of the authors' files
(vit_jax/models_resnet.py). BiT's version 2 is in bit.py. Images are NHWC.
"""

import keras
from keras import ops

ROOT_RATIO = 4  # pixels per position after the root: convolution and pool
GROUPS = 32  # of group norm

# Version 1 adds its epsilon to the deviation, version 2 to the variance.
_STANDARDIZE = {
    "v1": lambda mean, variance, w: (w - mean) / (ops.sqrt(variance) + 1e-5),
    "v2": lambda mean, variance, w: (w - mean) / ops.sqrt(variance + 1e-10),
}


@keras.saving.register_keras_serializable("vit_tf")
class StdConv(keras.layers.Layer):
    """A convolution whose kernel has mean 0 and deviation 1 per output channel.

    No bias. The kernel is standardised in float32 whatever the compute dtype.

    Args:
        padding: 'same' as in TensorFlow, or the zeros on every side.
        style: 'v1' or 'v2', where epsilon goes.
    """

    def __init__(
        self, inputs, outputs, size, stride=1, padding="same", style="v1", **kwargs
    ):
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self.stride, self.padding, self.style = stride, padding, style

    def build(self, input_shape=None):
        self.kernel = self.add_weight(
            shape=(self.size, self.size, self.inputs, self.outputs),
            initializer="lecun_normal",
            autocast=False,
            name="kernel",
        )

    def call(self, x):
        kernel = ops.convert_to_tensor(self.kernel)
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        kernel = _STANDARDIZE[self.style](mean, variance, kernel)
        if self.padding != "same":
            x = pad_zeros(x, self.padding)
        return ops.conv(
            x,
            ops.cast(kernel, x.dtype),
            strides=self.stride,
            padding="same" if self.padding == "same" else "valid",
            data_format="channels_last",
        )


@keras.saving.register_keras_serializable("vit_tf")
class GroupNorm(keras.layers.Layer):
    """Normalises 32 groups of channels over space, in float32.

    Args:
        channels: a multiple of `groups`.
        epsilon: 1e-6 in hybrids, 1e-5 in BiT.
        names: what scale and bias are called in the released files.
        scale: initial value; 0 at the end of a version 1 unit.
    """

    def __init__(
        self,
        channels,
        epsilon=1e-6,
        names=("scale", "bias"),
        scale=1.0,
        groups=GROUPS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.epsilon, self.groups = channels, epsilon, groups
        self.names, self.initial_scale = tuple(names), scale

    def build(self, input_shape=None):
        scale, bias = self.names
        constant = keras.initializers.Constant(self.initial_scale)
        self.scale = self.add_weight(
            shape=(self.channels,), initializer=constant, autocast=False, name=scale
        )
        self.bias = self.add_weight(
            shape=(self.channels,), initializer="zeros", autocast=False, name=bias
        )

    def call(self, x):
        rows, columns = x.shape[1:3]
        groups = (self.groups, self.channels // self.groups)
        y = ops.reshape(ops.cast(x, "float32"), (-1, rows, columns, *groups))
        mean, variance = ops.moments(y, axes=(1, 2, 4), keepdims=True)
        scale = ops.reshape(self.scale, groups) * ops.rsqrt(variance + self.epsilon)
        y = (y - mean) * scale + ops.reshape(self.bias, groups)
        y = ops.reshape(y, (-1, rows, columns, self.channels))
        return ops.cast(y, self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "channels": self.channels,
            "epsilon": self.epsilon,
            "names": self.names,
            "scale": self.initial_scale,
            "groups": self.groups,
        }


@keras.saving.register_keras_serializable("vit_tf")
class Unit(keras.layers.Layer):
    """Bottleneck of version 1: 1 x 1, 3 x 3 with the stride, 1 x 1, ReLU after the sum."""

    def __init__(self, inputs, features, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.inputs, self.features, self.stride = inputs, features, stride
        f, outputs, policy = features, 4 * features, {"dtype": self.dtype_policy}
        self.conv1 = StdConv(inputs, f, 1, name="conv1", **policy)
        self.gn1 = GroupNorm(f, name="gn1", **policy)
        self.conv2 = StdConv(f, f, 3, stride, name="conv2", **policy)
        self.gn2 = GroupNorm(f, name="gn2", **policy)
        self.conv3 = StdConv(f, outputs, 1, name="conv3", **policy)
        # A unit begins as the identity.
        self.gn3 = GroupNorm(outputs, scale=0.0, name="gn3", **policy)
        self.conv_proj = self.gn_proj = None
        if inputs != outputs or stride != 1:
            self.conv_proj = StdConv(
                inputs, outputs, 1, stride, name="conv_proj", **policy
            )
            self.gn_proj = GroupNorm(outputs, name="gn_proj", **policy)

    def build(self, input_shape=None):
        first = (self.conv_proj, self.gn_proj)
        rest = (self.conv1, self.gn1, self.conv2, self.gn2, self.conv3, self.gn3)
        for layer in (*first, *rest):
            if layer is not None:
                layer.build()

    def call(self, x):
        """Maps (batch, rows, columns, inputs) to (batch, .., .., 4 * features)."""
        residual = x if self.conv_proj is None else self.gn_proj(self.conv_proj(x))
        y = ops.relu(self.gn1(self.conv1(x)))
        y = ops.relu(self.gn2(self.conv2(y)))
        return ops.relu(residual + self.gn3(self.conv3(y)))


@keras.saving.register_keras_serializable("vit_tf")
class Stage(keras.layers.Layer):
    """Units at one resolution, the first of them with the stride."""

    def __init__(self, inputs, features, count, stride, **kwargs):
        super().__init__(**kwargs)
        self.inputs, self.features = inputs, features
        self.count, self.stride = count, stride
        self.units = [
            Unit(
                4 * features if i else inputs,
                features,
                1 if i else stride,
                dtype=self.dtype_policy,
                name=f"unit{i + 1}",
            )
            for i in range(count)
        ]

    def build(self, input_shape=None):
        for unit in self.units:
            unit.build()

    def call(self, x):
        for unit in self.units:
            x = unit(x)
        return x


def stem_layers(counts, *, dtype) -> list[keras.layers.Layer]:
    """Makes root and stages of a hybrid, named as in the released files.

    Args:
        counts: units of each stage; () is the root alone.
    """
    made = [
        StdConv(3, 64, 7, 2, dtype=dtype, name="conv_root"),
        GroupNorm(64, dtype=dtype, name="gn_root"),
    ]
    channels = 64
    for i, count in enumerate(counts):
        features, stride = 64 * 2**i, 2 if i else 1
        made.append(
            Stage(channels, features, count, stride, dtype=dtype, name=f"block{i + 1}")
        )
        channels = 4 * features
    return made


def run_stem(layers_of_stem, images):
    """Maps images (batch, height, width, 3) to features, `stem_ratio` smaller."""
    conv, norm, *stages = layers_of_stem
    x = max_pool_same(ops.relu(norm(conv(images))))
    for stage in stages:
        x = stage(x)
    return x


def stem_ratio(counts) -> int:
    """Pixels per position of a stem's map."""
    return ROOT_RATIO * 2 ** max(len(counts) - 1, 0)


def stem_channels(counts) -> int:
    """Channels of a stem's map."""
    return 4 * 64 * 2 ** (len(counts) - 1) if counts else 64


def pad_zeros(x, width: int):
    """Pads (batch, rows, columns, channels) with `width` zeros on every side."""
    if not width:
        return x
    return ops.pad(x, [[0, 0], [width, width], [width, width], [0, 0]])


def max_pool_same(x):
    """Takes the largest of 3 x 3 at stride 2 with TensorFlow's padding, of values >= 0."""
    pads = []
    for length in x.shape[1:3]:
        total = max((halved(length) - 1) * 2 + 3 - length, 0)
        pads.append([total // 2, total - total // 2])
    # Zeros stand for minus infinity: after a ReLU nothing is smaller.
    return max_pool(ops.pad(x, [[0, 0], *pads, [0, 0]]))


def max_pool(x):
    """Takes the largest of 3 x 3 at stride 2 without padding.

    Of shifted copies, one axis after the other: TensorFlow has no deterministic
    gradient of its own max-pool under XLA, and refuses to compile it.
    """
    for axis in (1, 2):
        after = (x.shape[axis] - 3) // 2 + 1
        parts = []
        for first in range(3):
            cut = [slice(None)] * 4
            cut[axis] = slice(first, first + 2 * after - 1, 2)
            parts.append(x[tuple(cut)])
        x = ops.maximum(ops.maximum(parts[0], parts[1]), parts[2])
    return x


def halved(length: int) -> int:
    """Positions that stride 2 leaves of `length`, with this file's paddings."""
    return -(-length // 2)
