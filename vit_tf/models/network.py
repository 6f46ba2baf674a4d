"""What every network here shares: its call, its checks, and its record.

A network writes its whole forward pass once, in `forward`; the steps of it that have
names (`embed_patches`, `encode`, `pool`, `head`) are joints where callers may enter.
A call with `record={}` leaves intermediates in that dict.
"""

import warnings

import keras

from vit_tf import errors

# Names in a record that all networks share; each file adds its own.
ENCODED = "encoded"  # after the last norm: tokens (batch, T, width) or a map
POOLED = "pooled"  # (batch, width) float32
PRE_LOGITS = "pre_logits"  # (batch, width) float32, only with that layer
LOGITS = "logits"  # (batch, classes) float32, only with classes


class Network(keras.Model):
    """Takes square images in [-1, 1]; every variable exists once it is made.

    Subclasses set `image_size` and `draws`, write `forward`, and build in their
    constructor.

    Attributes:
        image_size: pixels along one side.
        has_pre_logits: whether a tanh layer stands before the last one.
        pools: whether there is one vector of logits per image.
        draws: the rates, by name, that make training need a seed.
    """

    has_pre_logits = False
    pools = True
    _shapes_known = _in_keras = False

    def __call__(self, images, *, training=None, seed=None, record=None):
        """Maps images to logits.

        Args:
            images: (batch, image_size, image_size, 3) in [-1, 1].
            training: whether dropout draws.
            seed: two int32; every draw is a function of them and of the place
                where it happens. Needed when training with dropout.
            record: a dict that receives the intermediates named in this file and
                in the network's own.

        Returns:
            Logits (batch, num_classes) float32, or without classes the features
            (batch, width) float32.

        Raises:
            errors.UserError: images of another size; no seed for dropout.
        """
        # A part of another Keras model, whose `fit` hands over no seeds.
        self._in_keras |= isinstance(images, keras.KerasTensor)
        # Asked here, because Keras wraps what `call` raises in several lines.
        self.check_images(images)
        self.check_seed(training, seed)
        # Keras copies a dict that it is handed; it leaves a holder alone.
        held = None if record is None else _Held(record)
        return super().__call__(images, training=training, seed=seed, record=held)

    def call(self, images, training=False, seed=None, record=None):
        record = record.value if isinstance(record, _Held) else record
        if seed is None and self.is_drawing(training):
            # Keras' `fit`, which hands over none: from its own global generator.
            seed = keras.random.randint((2,), 0, 2**31 - 1, dtype="int32")
        return self.forward(images, training=training, seed=seed, record=record)[1]

    def forward(self, images, *, training=False, seed=None, record=None):
        """Computes features and logits of images (batch, size, size, 3) in [-1, 1].

        Returns:
            What the last layer reads, float32 (batch, width), and its logits, float32
            (batch, classes); without classes the features twice.
        """
        raise NotImplementedError

    def train_step(self, *args):
        """Takes Keras' step, without its warning about the biases of keys.

        Softmax gives the same for every bias of the keys, so that none has a gradient.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist .*key/bias")
            return super().train_step(*args)

    def summary(self, *args, **kwargs):
        """Prints the layers with their parameters and the shapes of their outputs."""
        if not self._shapes_known:  # a call with symbols leaves them in the layers
            self.forward(keras.Input((self.image_size, self.image_size, 3)))
            self._shapes_known = True
        return super().summary(*args, **kwargs)

    def export(self, filepath, format="tf_saved_model", **kwargs):
        """Writes Keras' own export; `tools.export` writes one for image files.

        Args:
            filepath: the folder or file.
            format: see `keras.Model.export`.
            **kwargs: see there; the input is (batch, size, size, 3) unless given.
        """
        shape = (None, self.image_size, self.image_size, 3)
        signature = [keras.InputSpec(dtype="float32", shape=shape)]
        kwargs.setdefault("input_signature", signature)
        self(keras.ops.zeros((1, *shape[1:])))  # Keras asks for a call before
        super().export(filepath, format=format, **kwargs)

    def is_drawing(self, training) -> bool:
        """Returns whether a call draws random numbers."""
        return bool(training and any(self.draws.values()))

    def check_seed(self, training, seed) -> None:
        if (
            seed is None
            and not (self.compiled or self._in_keras)
            and (self.is_drawing(training))
        ):
            rates = ", ".join(f"{name} {rate}" for name, rate in self.draws.items())
            raise errors.UserError(
                f"{rates}: got no seed, need seed=two int32 numbers that change every "
                "step"
            )

    def check_images(self, images) -> None:
        size, shape = self.image_size, tuple(images.shape)
        if len(shape) != 4 or shape[1:] != (size, size, 3):
            raise errors.UserError(
                f"images: got shape {shape}, need (batch, {size}, {size}, 3): resize "
                "them, or build the model with another image_size"
            )
        kind = keras.backend.standardize_dtype(images.dtype)
        if not keras.backend.is_float_dtype(kind):
            raise errors.UserError(
                f"images: got {kind}, need floats in [-1, 1]: (images - 127.5) / 127.5"
            )


class _Held:
    """Carries a dict through Keras, which would copy a bare one."""

    def __init__(self, value):
        self.value = value


def note(record, name, value):
    """Returns `value`, after leaving it in `record` under `name` if there is a record."""
    if record is not None:
        record[name] = value
    return value


def checkpointed(function, wanted: bool):
    """Wraps `function` of one tensor so that, if wanted, the backward
    pass computes it again.

    Costs another forward pass of it and saves the memory of what is inside.
    """
    return keras.remat(function) if wanted else function
