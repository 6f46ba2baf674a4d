"""Classification: cross-entropy of an image's labels, softmax or summed sigmoid."""

import tensorflow as tf

from vit_tf import config
from vit_tf.data import images, mixup_cutmix


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

    def draw(self, batch, seed, *, first, total):
        """Returns the batch as it is: nothing is drawn for single examples here."""
        del seed, first, total
        return batch

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


def _softmax(targets, logits):
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _sigmoid(targets, logits):
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.reduce_sum(losses, axis=-1)
