"""BiT ResNets (1912.11370), the paper's convolutional baselines, in keras.ops only.

ResNet version 2 (normalise and ReLU before the convolution) with group norm and
standardised kernels. Whether the ViT paper's own ResNets were version 2, as the
published BiT models, is not stated; these are. Names, epsilons and paddings are those
of the released files.
"""

import keras
from keras import ops

from vit_tf import errors
from vit_tf.models import axial, layers, network, resnet

# What a call with `record={}` leaves in that dict, beside the names in network.py.
STAGE = "stage_{}"  # (batch, rows, columns, channels), output of stage i from 0

ROOT_WIDTH = 64  # channels after the root of every published model at factor 1


@keras.saving.register_keras_serializable("vit_tf")
class Branch(keras.layers.Layer):
    """One third of a unit: norm, ReLU, convolution; the first may hold the shortcut.

    Args:
        size: of the convolution's window, padded to keep the size at stride 1.
        stride: of the convolution.
        shortcut: (channels, stride) of the shortcut's 1 x 1 convolution, or None.
        length: rows of the map; axial attention then stands for the convolution.
    """

    def __init__(
        self, inputs, outputs, size, stride=1, shortcut=None, length=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self.stride, self.shortcut, self.length = stride, shortcut, length
        policy = self.dtype_policy
        self.norm = _norm(inputs, policy)
        if length is None:
            self.conv = _conv(inputs, outputs, size, stride, policy)
        else:
            self.conv = axial.AxialAttention(
                inputs, length, stride, dtype=policy, name="axial"
            )
        self.proj = None
        if shortcut:
            channels, steps = shortcut
            self.proj = _conv(inputs, channels, 1, steps, policy)

    def build(self, input_shape=None):
        self.norm.build()
        self.conv.build()
        if self.proj is not None:
            with keras.name_scope("proj"):
                self.proj.build()

    def call(self, x):
        """Computes the branch, and the projected shortcut or None."""
        x = ops.relu(self.norm(x))
        return self.conv(x), None if self.proj is None else self.proj(x)


@keras.saving.register_keras_serializable("vit_tf")
class Unit(keras.layers.Layer):
    """Bottleneck of version 2; no norm on the projection, no ReLU after the sum."""

    def __init__(self, inputs, features, stride=1, length=None, **kwargs):
        super().__init__(**kwargs)
        self.inputs, self.features = inputs, features
        self.stride, self.length = stride, length
        f, outputs, policy = features, 4 * features, {"dtype": self.dtype_policy}
        changes = inputs != outputs or stride != 1
        shortcut = (outputs, stride) if changes else None
        self.a = Branch(inputs, f, 1, shortcut=shortcut, name="a", **policy)
        self.b = Branch(f, f, 3, stride, length=length, name="b", **policy)
        self.c = Branch(f, outputs, 1, name="c", **policy)

    def build(self, input_shape=None):
        for branch in (self.a, self.b, self.c):
            branch.build()

    def call(self, x):
        """Maps (batch, rows, columns, inputs) to (batch, .., .., 4 * features)."""
        y, shortcut = self.a(x)
        y, _ = self.b(y)
        y, _ = self.c(y)
        return y + (x if shortcut is None else shortcut)


@keras.saving.register_keras_serializable("vit_tf")
class BiT(network.Network):
    """A ResNet of version 2 with mean pooling and one linear layer.

    `embed` is the root, `encode` all units and the last norm. Under mixed_bfloat16
    the variables, the norms' statistics and everything from pooling on are float32.

    Args:
        counts: units of each of the stages, such as (3, 4, 6, 3).
        width_factor: times `root_width` channels.
        root_width: channels after the root, a multiple of group norm's 32.
        num_classes: width of the logits; 0: no last layer, features come out.
        image_size: pixels along one side, at least 32.
        head_bias: initial value of the last bias.
        axial: axial attention in the place of every 3 x 3 convolution; the model
            then fits this image size only.
        remat: whether the inside of each unit is computed again for the gradient.

    Raises:
        errors.UserError: an image smaller than the network's stride, a root that does
            not divide into the groups.
    """

    def __init__(
        self,
        *,
        counts,
        width_factor,
        num_classes,
        image_size,
        root_width=ROOT_WIDTH,
        head_bias=0.0,
        axial=False,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.counts, self.width_factor = tuple(counts), width_factor
        self.num_classes, self.image_size = num_classes, image_size
        self.head_bias, self.axial, self.remat = head_bias, axial, remat
        self.draws = {}
        if root_width % resnet.GROUPS:
            raise errors.UserError(
                f"model.width={root_width}: a ResNet's root needs a multiple of "
                f"{resnet.GROUPS}, the groups of its norm"
            )
        self.stride = resnet.stem_ratio(self.counts)  # pixels per final position
        if image_size < self.stride:
            raise errors.UserError(
                f"image size {image_size}: smaller than the {self.stride} pixels that "
                f"one position of {self.name} covers; need {self.stride} or more"
            )
        self.root_width = root_width
        self.width = 4 * root_width * width_factor * 2 ** (len(self.counts) - 1)
        self._lay_out()
        self.build()

    def _lay_out(self):
        """Makes the layers, in the order in which initial values are drawn."""
        policy, channels = self.dtype_policy, self.root_width * self.width_factor
        self.root = _conv(3, channels, 7, 2, policy)
        self.stages = []
        length = resnet.halved(resnet.halved(self.image_size))
        for i, count in enumerate(self.counts):
            features, units = self.root_width * self.width_factor * 2**i, []
            for j in range(count):
                stride = 2 if i and not j else 1
                where = length if self.axial else None
                name = f"unit{j + 1:02d}"
                units.append(
                    Unit(channels, features, stride, where, dtype=policy, name=name)
                )
                channels = 4 * features
                length = resnet.halved(length) if stride == 2 else length
            self.stages.append(units)
        self.units = [unit for units in self.stages for unit in units]
        self.norm = _norm(channels, policy)
        self.classifier = None
        if self.num_classes:
            self.classifier = layers.Linear(
                (1, 1, channels),
                (self.num_classes,),
                kernel_initializer="zeros",
                bias_initializer=keras.initializers.Constant(self.head_bias),
                dtype="float32",
                name="conv2d",
            )

    def build(self, input_shape=None):
        if self.built:  # by the constructor; Keras asks again when it loads
            return
        with keras.name_scope("resnet"):
            with keras.name_scope("root_block"):
                self.root.build()
            for i, units in enumerate(self.stages):
                with keras.name_scope(f"block{i + 1}"):
                    for unit in units:
                        unit.build()
            self.norm.build()
            if self.classifier is not None:
                with keras.name_scope("head"):
                    self.classifier.build()

    def forward(self, images, *, training=False, seed=None, record=None):
        """Computes the whole forward pass; see `Network`. Nothing in it draws."""
        del seed
        x = self.embed(images)  # (batch, rows, columns, channels)
        for i, units in enumerate(self.stages):
            for unit in units:
                x = network.checkpointed(unit, self.remat and training)(x)
            network.note(record, STAGE.format(i), x)
        encoded = network.note(record, network.ENCODED, ops.relu(self.norm(x)))
        pooled = ops.mean(ops.cast(encoded, "float32"), axis=(1, 2))
        network.note(record, network.POOLED, pooled)  # (batch, width) float32
        if self.classifier is None:
            return pooled, pooled
        return pooled, network.note(record, network.LOGITS, self.classifier(pooled))

    def embed(self, images):
        """Maps images (batch, size, size, 3) to (batch, rows, columns, channels)."""
        self.check_images(images)
        # Zeros before the pool, not minus infinity: the convolution's results may
        # all be negative, and the released weights were trained so.
        x = resnet.pad_zeros(self.root(ops.cast(images, self.compute_dtype)), 1)
        return resnet.max_pool(x)

    def get_config(self):
        return super().get_config() | {
            "counts": self.counts,
            "width_factor": self.width_factor,
            "root_width": self.root_width,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "head_bias": self.head_bias,
            "axial": self.axial,
            "remat": self.remat,
        }


def _conv(inputs, outputs, size, stride, dtype):
    """Makes BiT's convolution: zeros on both sides alike, epsilon under the root."""
    return resnet.StdConv(
        inputs,
        outputs,
        size,
        stride,
        padding=size // 2,
        style="v2",
        dtype=dtype,
        name="standardized_conv2d",
    )


def _norm(channels, dtype):
    return resnet.GroupNorm(
        channels, 1e-5, ("gamma", "beta"), dtype=dtype, name="group_norm"
    )
