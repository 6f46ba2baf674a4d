"""What training minimises: (model, batch, seed) -> loss of every example.

An objective may own `variables`, which are trained, averaged and saved with the
model's and stay behind when the model goes on elsewhere.
"""

import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source, images, mixup_cutmix
from vit_tf.objectives import masked_patches


class Classification:
    """Softmax or summed sigmoid cross-entropy of the labels of an image.

    Sigmoid sums over the classes, as big_vision's: Keras would average. It takes images
    of several labels, or none, as ImageNet-21k and JFT have them.
    """

    variables = ()
    measures = tuple(m for m in config.Measure if m != config.Measure.PIXEL_ERROR)

    def __init__(self, objective: config.Objective, *, num_classes: int):
        self.num_classes = num_classes
        self.smoothing = objective.label_smoothing
        self.cross_entropy = {
            config.Loss.SOFTMAX: _softmax,
            config.Loss.SIGMOID: _sigmoid,
        }[objective.loss]

    def __call__(self, model, batch, seed=None, *, training=True):
        """Losses of a batch.

        Args:
            model: gives logits (batch, classes) float32.
            batch: 'image' uint8 (batch, height, width, 3) or float in [-1, 1],
                'label' int32 (batch,) or multi-hot float32 (batch, classes); what
                `mixing.drawer` added, in training.
            seed: int32 (2,), fixes every random draw inside the model.
            training: with dropout, label smoothing and mixing, or without.

        Returns:
            float32 (batch,) losses, and the logits.
        """
        pixels = batch["image"]
        if pixels.dtype == tf.uint8:  # training batches; evaluation's are scaled
            pixels = images.to_model_range(pixels)
        targets = batch["label"]
        if targets.dtype == tf.int32:
            targets = tf.one_hot(targets, self.num_classes)
        if training and self.smoothing:
            targets *= 1.0 - self.smoothing
            targets += self.smoothing / self.num_classes
        if training and mixup_cutmix.WEIGHT in batch:
            weight, box = batch[mixup_cutmix.WEIGHT], batch.get(mixup_cutmix.BOX)
            pixels, targets = mixup_cutmix.mix(pixels, targets, weight, box)
        pixels = tf.cast(pixels, model.compute_dtype)
        logits = model(pixels, training=training, seed=seed)
        return self.cross_entropy(targets, logits), logits


def build(cfg: config.Config, *, model, num_classes: int):
    """The objective of a run; inside the strategy's scope, after the model.

    Args:
        num_classes: of the data, whether the model tells them or not.

    Raises:
        errors.UserError: measures that it does not have; see also
            `masked_patches.MaskedPatches`.
    """
    made = {
        config.Task.CLASSIFICATION: lambda: Classification(
            cfg.objective, num_classes=num_classes
        ),
        config.Task.MASKED_PATCH: lambda: masked_patches.MaskedPatches(
            cfg.objective, model=model
        ),
    }[cfg.objective.task]()
    for name in cfg.evals.measures:
        if name not in made.measures:
            raise errors.UserError(
                f"evals.measures={name}: not of objective.task={cfg.objective.task} "
                f"with this target; there are: {', '.join(made.measures)}"
            )
    return made


def class_names(objective: config.Objective, source: data_source.Source) -> list[str]:
    """The classes that the model's last layer tells; none where no label is read."""
    reads = objective.task is config.Task.CLASSIFICATION
    return list(source.class_names) if reads else []


def check_data(cfg: config.Config, source: data_source.Source) -> None:
    """Refuses data that the objective cannot take.

    Raises:
        errors.UserError: several labels for a softmax; a flip that changes labels;
            mixed labels where none is read.
    """
    if cfg.objective.task is config.Task.MASKED_PATCH:
        masked_patches.check_data(cfg.data)
        return
    if source.multi_label and cfg.objective.loss == config.Loss.SOFTMAX:
        raise errors.UserError(
            f"data.name={cfg.data.name}: has several labels for an image, softmax "
            "takes one; use objective.loss=sigmoid"
        )
    protocol = source.spec.protocol
    if protocol is not None and cfg.data.flip and not protocol.flip:
        raise errors.UserError(
            f"data.flip=True: mirroring changes the labels of {source.name}; use "
            "data.flip=false, or experiments/vtab.py"
        )


def _softmax(targets, logits):
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _sigmoid(targets, logits):
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.reduce_sum(losses, axis=-1)
