"""Linear probes: the accuracy of a linear classifier on the features of each layer.

Features of a layer are the class token where the model has one, else the mean over
patches. The classifier is ridge regression in closed form (`ridge_regression`); its
penalty is the one that best classifies the training images, each left out.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.evaluation import inference, ridge_regression
from vit_tf.inspection import image_sets, measures
from vit_tf.models import network, vit
from vit_tf.runtime import devices

# From weak to strong; features are whitened, so the same suit every layer.
L2S = tuple(10.0**power for power in range(6))


@dataclasses.dataclass(frozen=True)
class Probes:
    """The results of the classifiers.

    Attributes:
        accuracy: (layers,) in [0, 1] on the test split; layer 0 is the input of the
            first block, the last one the encoder's output before pooling.
        l2: (layers,) the chosen penalty.
        train: number of images that each classifier was fitted to.
        test: number of images that each was tested on.
        chance: share of the largest class among the test images.
    """

    accuracy: np.ndarray
    l2: np.ndarray
    train: int
    test: int
    chance: float


def probe(
    model: network.Network,
    source: data_source.Source,
    view: config.View,
    *,
    splits: tuple[str, str],
    machine: devices.Runtime,
    max_images: int = 2000,
    batch_size: int = 64,
) -> Probes:
    """Fits a linear classifier to every layer and tests it.

    Args:
        model: a ViT or a hybrid.
        source: an opened data set with one label per image.
        view: size and crop.
        splits: to fit to, and to test on.
        machine: devices that share the passes.
        max_images: of each split, at most; drawn at random, always the same.
        batch_size: images at a time; changes no number.

    Raises:
        errors.UserError: a ResNet; several labels per image; no such split.
    """
    measures.check_tokens(model)
    if source.multi_label:
        raise errors.UserError(
            f"{source.name}: an image has several labels, linear probes need one"
        )
    sweep = inference.InferencePass(
        model, features, strategy=machine.strategy, processes=machine.processes
    )
    fitted, tested = (
        sweep.over(
            source,
            view,
            split,
            batch_size=batch_size,
            keep=image_sets.choose(source.num_examples(split), max_images),
        )
        for split in splits
    )
    labels, truth = fitted.pop("label"), tested.pop("label")
    accuracy, chosen = [], []
    for name in fitted:
        solved = ridge_regression.Ridge(
            fitted[name], labels, num_classes=source.num_classes
        )
        left_out = [(solved.leave_one_out(l2).argmax(1) == labels).mean() for l2 in L2S]
        # The strongest of equals: the simplest classifier that is as good.
        best = max(range(len(L2S)), key=lambda i: (left_out[i], i))
        predicted = solved.predict(tested[name], [L2S[best]])[0]
        accuracy.append((predicted == truth).mean())
        chosen.append(L2S[best])
    largest = np.bincount(truth).max() / len(truth)
    return Probes(
        np.array(accuracy), np.array(chosen), len(labels), len(truth), float(largest)
    )


def features(
    model: network.Network, batch: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Returns a vector of every layer and image, float32 (batch, width), and labels."""
    images = tf.cast(batch["image"], model.compute_dtype)
    record: dict[str, tf.Tensor] = {}
    model(images, training=False, record=record)
    layers = [vit.POSITIONED, *(vit.BLOCK.format(i) for i in range(model.num_blocks))]
    vectors = {}
    for number, name in enumerate([*layers, vit.ENCODED]):
        tokens = tf.cast(record[name], tf.float32)
        one = tokens[:, 0] if model.has_class_token else tf.reduce_mean(tokens, axis=1)
        vectors[f"{number:03d}"] = one
    return vectors | {"label": batch["label"]}
