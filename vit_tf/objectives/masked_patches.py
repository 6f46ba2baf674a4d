"""Masked patch prediction: an image's corrupted patches, guessed (B.1.2).

The paper's self-supervised experiment (section 4.6, B.1.2), whose code was never
published:

    x = E image -> some patches of x corrupted -> + positions -> encoder ->
    a linear layer on the outputs of the corrupted patches -> colours

Everything has a fixed shape, so that XLA and TPUs take it.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import images, mixup_cutmix
from vit_tf.models import layers, vit
from vit_tf.objectives import patch_colors

# Shares of the corrupted patches: the mask embedding, another patch of the image; the
# rest is kept. Drawn for each patch, as BERT draws them for each token: in a fixed
# number of patches the shares of so few as 10 would be off.
MASKED, REPLACED = 0.8, 0.1

NOISE = "patch_noise"  # of a training batch: what `drawn` gave

_CELLS = {config.Target.MEAN_COLOR: 1, config.Target.SHRUNK_COLORS: 4}  # a side
_GREY = 127  # what stands for the mask embedding in a picture
_SALT = 0x3A5C  # keeps these draws apart from dropout's
_ROWS = 1024  # of fixed draws; further examples take them again


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is done to the patches of a batch.

    Attributes:
        positions: int32 (batch, count), the corrupted patches, in random order.
        places: int32 (batch, patches), where in that order a patch stands; `count`
            and more: it is not corrupted.
        masked: bool (batch, patches), which become the mask embedding.
        sources: int32 (batch, patches), the patch whose embedding each becomes
            otherwise: another one's, or its own.
    """

    positions: tf.Tensor
    places: tf.Tensor
    masked: tf.Tensor
    sources: tf.Tensor


def corruption(noise: tf.Tensor, count: int) -> Corruption:
    """Chooses exactly `count` patches of every image, and what becomes of them.

    Args:
        noise: float32 (batch, 3, patches), uniform in [0, 1): for the choice of
            patches, for what happens to each, and for where another one is taken.
        count: of the patches.
    """
    patches = noise.shape[-1]
    order = tf.argsort(noise[:, 0])
    places = tf.argsort(order)
    corrupted, kind = places < count, noise[:, 1]
    replaced = corrupted & (kind >= MASKED) & (kind < MASKED + REPLACED)
    own = tf.range(patches)
    step = 1 + tf.cast(noise[:, 2] * (patches - 1), tf.int32)  # 1 to patches - 1
    other = (own + step) % patches
    return Corruption(
        positions=order[:, :count],
        places=places,
        masked=corrupted & (kind < MASKED),
        sources=tf.where(replaced, other, own),
    )


def drawn(
    seed: tf.Tensor, patches: int, *, first: tf.Tensor, count: int, total: int
) -> tf.Tensor:
    """Draws the noise of one replica's examples in a training step.

    Every replica draws for the whole global batch, which costs next to nothing beside
    a step, and takes its own rows: so replicas do not change what is corrupted.

    Args:
        seed: int32 (2,), of the step.
        patches: of an image.
        first: int32 (), place of the replica's first example in the global batch.
        count: examples of the replica.
        total: examples of the global batch.

    Returns:
        float32 (count, 3, patches), uniform in [0, 1), as `corruption` takes it.
    """
    key = tf.random.experimental.stateless_fold_in(seed, _SALT)
    noise = tf.random.stateless_uniform((total, 3, patches), key)
    return tf.slice(noise, [first, 0, 0], [count, 3, patches])


def fixed(index: tf.Tensor, patches: int) -> tf.Tensor:
    """Draws the noise of examples that are evaluated: always the same for each.

    Rows of one table, which NumPy fills: TensorFlow's own draws of one seed are others
    under XLA. So neither batch, replica nor device matters.

    Args:
        index: int64 (batch,), rows in their split.
    """
    rng = np.random.default_rng(_SALT)
    table = tf.constant(rng.random((_ROWS, 3, patches), np.float32))
    return tf.gather(table, tf.cast(index % _ROWS, tf.int32))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of a batch's corrupted patches, in their random order.

    Attributes:
        plan: which these are.
        outputs: float32 (batch, count, cells, 512) logits of colours, or (batch,
            count, values) pixels in [-1, 1].
        targets: int32 (batch, count, cells), or like the outputs.
    """

    plan: Corruption
    outputs: tf.Tensor
    targets: tf.Tensor


class MaskedPatches:
    """The objective; what it learns besides the model is its own.

    Made inside the strategy's scope, after the model. In a hybrid a patch is what one
    token stands for, of whose surroundings the ResNet's output knows too.

    Attributes:
        variables: the mask embedding (width,), and kernel and bias of the layer that
            predicts; all float32. A model that goes on elsewhere leaves them behind.
        count: corrupted patches of an image.
        measures: what can be asked of its predictions.

    Raises:
        errors.UserError: a model without such patches, or with layers that would not
            learn; settings that exclude each other.
    """

    def __init__(self, objective: config.Objective, *, model):
        _check(objective, model)
        self.target = objective.target
        self.patch_size, self.patches = model.token_stride, model.grid**2
        self.count = round(objective.corruption * self.patches)
        if not self.count or self.patches == 1:
            raise errors.UserError(
                f"objective.corruption={objective.corruption}: {self.count} of "
                f"{self.patches} patches; take more, or smaller patches"
            )
        self.measures = (config.Measure.ACCURACY, config.Measure.LOSS)
        if self.target is config.Target.PIXELS:
            self.measures = (config.Measure.PIXEL_ERROR, config.Measure.LOSS)
        with keras.name_scope("masked_patch"):
            self.mask = keras.Variable(
                keras.initializers.RandomNormal(stddev=0.02),  # as the positions
                shape=(model.width,),
                dtype="float32",
                name="mask_embedding",
            )
            # Zeros, as all heads: the first loss is that of guessing, ln 512.
            self.head = layers.Linear(
                (model.width,),
                (self._num_outputs(),),
                kernel_initializer="zeros",
                dtype="float32",
                name="head",
            )
            self.head.build()
        self.variables = [self.mask, self.head.kernel, self.head.bias]

    def _num_outputs(self) -> int:
        if self.target is config.Target.PIXELS:
            return 3 * self.patch_size**2
        return patch_colors.NUM_CLASSES * _CELLS[self.target] ** 2

    def draw(self, batch, seed, *, first, total):
        """Adds the noise that chooses what is corrupted; see `objective.Objective`."""
        noise = drawn(
            seed, self.patches, first=first, count=batch["image"].shape[0], total=total
        )
        return {**batch, NOISE: noise}

    def __call__(self, model, batch, seed=None, *, training=True):
        """Losses of a batch; its labels are not read.

        Args:
            model: a `vit.VisionTransformer`.
            batch: 'image' uint8 (batch, height, width, 3), augmented, and the noise
                that `draw` added.
            seed: int32 (2,), fixes every draw inside the model.
            training: with dropout or without.

        Returns:
            float32 (batch,) losses, each the mean over the image's corrupted patches,
            and the `Prediction`.
        """
        prediction = self.predict(
            model, batch, batch[NOISE], seed=seed, training=training
        )
        return self.losses(prediction), prediction

    def predict(self, model, batch, noise, *, seed=None, training=False) -> Prediction:
        """Corrupts and predicts.

        Args:
            batch: 'image' uint8, or float32 in [-1, 1] as evaluations have it.
            noise: float32 (batch, 3, patches), as `corruption` takes it.
        """
        plan = corruption(noise, self.count)
        how = {"training": training, "seed": seed}
        pixels = tf.cast(_scaled(batch["image"]), model.compute_dtype)
        embedded = model.embed_patches(pixels, training=training)
        tokens = model.encode(model.place(self.corrupt(embedded, plan), **how), **how)
        tokens = tokens[:, -self.patches :]  # without the class token, if there is one
        chosen = tf.gather(tokens, plan.positions, batch_dims=1)
        outputs = self.head(tf.cast(chosen, tf.float32))
        targets = tf.gather(self._targets(batch["image"]), plan.positions, batch_dims=1)
        if self.target is not config.Target.PIXELS:
            shape = (-1, *targets.shape[1:], patch_colors.NUM_CLASSES)
            outputs = tf.reshape(outputs, shape)
        return Prediction(plan, outputs, targets)

    def corrupt(self, embedded: tf.Tensor, plan: Corruption) -> tf.Tensor:
        """Exchanges some of the patch embeddings (batch, patches, width)."""
        mask = tf.cast(tf.convert_to_tensor(self.mask), embedded.dtype)
        others = tf.gather(embedded, plan.sources, batch_dims=1)
        return tf.where(plan.masked[..., None], mask, others)

    def _targets(self, pictures: tf.Tensor) -> tf.Tensor:
        """Computes (batch, patches, cells) colours, or (batch, patches, values) pixels."""
        if self.target is config.Target.PIXELS:
            flat = 3 * self.patch_size**2
            cut = self._cut(_scaled(pictures))
            return tf.reshape(cut, (-1, self.patches, flat))
        side = _CELLS[self.target]
        return patch_colors.shrunk_colors(_bytes(pictures), self.patch_size, side=side)

    def losses(self, prediction: Prediction) -> tf.Tensor:
        """Computes float32 (batch,): mean cross-entropy, or squared error of a value."""
        if self.target is config.Target.PIXELS:
            return tf.reduce_mean(
                tf.square(prediction.outputs - prediction.targets), axis=(1, 2)
            )
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=prediction.targets, logits=prediction.outputs
        )
        return tf.reduce_mean(losses, axis=(1, 2))

    def judge(self, model, batch) -> dict[str, tf.Tensor]:
        """Computes loss and score of each example, both float32 (batch,).

        Under the example's fixed draws. The score is the share of right colours, or the mean squared
        error of pixels in [0, 1].
        """
        prediction = self.predict(model, batch, fixed(batch["index"], self.patches))
        losses = self.losses(prediction)
        if self.target is config.Target.PIXELS:
            return {"loss": losses, "score": losses / 4}  # [-1, 1] is twice as wide
        guesses = tf.argmax(prediction.outputs, axis=-1, output_type=tf.int32)
        hits = tf.cast(guesses == prediction.targets, tf.float32)
        return {"loss": losses, "score": tf.reduce_mean(hits, axis=(1, 2))}

    def show(self, model, batch) -> dict[str, tf.Tensor]:
        """Pictures uint8 (batch, size, size, 3) of what `judge` judges.

        The image; with its corrupted patches, masked ones grey; with what is predicted
        in their place; and with what should be.
        """
        prediction = self.predict(model, batch, fixed(batch["index"], self.patches))
        guesses, plan = prediction.outputs, prediction.plan
        if self.target is not config.Target.PIXELS:
            guesses = tf.argmax(guesses, axis=-1, output_type=tf.int32)
        cut = self._cut(_bytes(batch["image"]))
        others = tf.gather(cut, plan.sources, batch_dims=1)
        grey = tf.constant(_GREY, tf.uint8)
        masked = tf.where(plan.masked[..., None, None, None], grey, others)
        return {
            "image": self._joined(cut),
            "corrupted": self._joined(masked),
            "predicted": self._joined(self._painted(cut, guesses, plan)),
            "target": self._joined(self._painted(cut, prediction.targets, plan)),
        }

    def _painted(self, cut, values, plan: Corruption) -> tf.Tensor:
        """Patches (batch, patches, p, p, 3) with colours in place of the corrupted."""
        p = self.patch_size
        if self.target is config.Target.PIXELS:
            pixels = _bytes(tf.reshape(values, (-1, self.count, p, p, 3)))
        else:
            side = _CELLS[self.target]
            bins = values[..., None] // tf.constant([64, 8, 1]) % 8
            colors = tf.cast((2 * bins + 1) * 255 // 16, tf.uint8)  # the bin's middle
            cells = tf.reshape(colors, (-1, self.count, side, side, 3))
            pixels = tf.repeat(tf.repeat(cells, p // side, axis=2), p // side, axis=3)
        slots = tf.minimum(plan.places, self.count - 1)
        there = tf.gather(pixels, slots, batch_dims=1)
        corrupted = (plan.places < self.count)[..., None, None, None]
        return tf.where(corrupted, there, cut)

    def _cut(self, pixels: tf.Tensor) -> tf.Tensor:
        """Cuts (batch, size, size, 3) into (batch, patches, p, p, 3) in raster order."""
        p, grid = self.patch_size, round(self.patches**0.5)
        rows = tf.reshape(pixels, (-1, grid, p, grid, p, 3))
        rows = tf.transpose(rows, (0, 1, 3, 2, 4, 5))
        return tf.reshape(rows, (-1, self.patches, p, p, 3))

    def _joined(self, cut: tf.Tensor) -> tf.Tensor:
        """Joins what `_cut` has cut."""
        p, grid = self.patch_size, round(self.patches**0.5)
        rows = tf.reshape(cut, (-1, grid, grid, p, p, 3))
        rows = tf.transpose(rows, (0, 1, 3, 2, 4, 5))
        return tf.reshape(rows, (-1, grid * p, grid * p, 3))


def check_data(data: config.Data) -> None:
    """Refuses mixtures of images, which are mixtures of labels."""
    if mixup_cutmix.is_on(data):
        raise errors.UserError(
            "data.mixup, data.cutmix: mix labels, masked patches have none; set both "
            "to 0"
        )


def _check(objective: config.Objective, model) -> None:
    task = f"objective.task={config.Task.MASKED_PATCH}"
    if not isinstance(model, vit.VisionTransformer):
        raise errors.UserError(
            f"{task}: {model.name} has no patch embeddings to corrupt; use a ViT, a "
            "hybrid or an Axial-ViT"
        )
    if objective.loss is not config.Loss.SOFTMAX or objective.label_smoothing:
        raise errors.UserError(
            f"{task}: has no labels; leave objective.loss and objective.label_smoothing "
            "as they are"
        )
    if model.pooling is config.Pool.MAP or model.has_pre_logits:
        raise errors.UserError(
            f"{task}: reads the encoder's tokens, model.pool=map and model.pre_logits "
            "would not learn; use model.pool=token or gap and model.pre_logits=false"
        )
    cells = _CELLS.get(objective.target, 1)
    if model.token_stride % cells:
        raise errors.UserError(
            f"objective.target={objective.target}: a patch of {model.token_stride} "
            f"pixels does not divide into {cells} x {cells} cells; use mean_color"
        )


def _scaled(pictures: tf.Tensor) -> tf.Tensor:
    """Scales bytes to float32 in [-1, 1]."""
    return images.to_model_range(pictures) if pictures.dtype == tf.uint8 else pictures


def _bytes(pictures: tf.Tensor) -> tf.Tensor:
    """Rounds to uint8 what evaluations have scaled, and may have resized."""
    if pictures.dtype == tf.uint8:
        return pictures
    scaled = tf.clip_by_value(tf.cast(pictures, tf.float32), -1.0, 1.0)
    return tf.cast(tf.round(scaled * 127.5 + 127.5), tf.uint8)
