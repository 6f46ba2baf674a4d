"""Labels: how the label of an example follows from its stored features.

Every label is a pure function of parsed features. A class is an int32 scalar; of
several classes at once, each with its own 1 in a float32 vector, one says multi-hot.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

Features = Mapping[str, Any]  # tensors, or mappings of tensors

OUT_OF_RANGE = "label out of range"  # how such a record's error is recognised

# A bin's number is that of the last threshold below the value (VTAB's task_adaptation).
_CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
_NO_VEHICLE = 1000.0  # metres: beyond the last threshold
_NUM_VEHICLES = 3  # of KITTI's object types: car, van, truck


@dataclasses.dataclass(frozen=True)
class Label:
    """How to get a label.

    Attributes:
        features: what to parse: {key: True}, or {key: {part: True}} for parts of a
            list of objects.
        derive: parsed features to int32 (), or to float32 (num_classes,) if `multi`.
        names_key: the feature that knows the names of the classes, if any does.
        multi: whether an image can have several classes, or none.
        names: of the classes, where they are not those of the stored feature.
    """

    features: Mapping[str, Any]
    derive: Callable[[Features], tf.Tensor]
    names_key: str | None = None
    multi: bool = False
    names: tuple[str, ...] | None = None


def stored(key: str) -> Label:
    """Reads the class that is stored under `key`."""
    return Label({key: True}, lambda features: _class(features[key]), key)


def multi_hot(key: str, num_classes: int) -> Label:
    """Puts ones at the classes listed under `key`: float32 (num_classes,).

    No class at all is possible: ImageNet-ReaL has such images.
    """

    def derive(features: Features) -> tf.Tensor:
        listed = check_range(_class(features[key]), num_classes)
        ones = tf.one_hot(listed, num_classes)
        return tf.minimum(tf.reduce_sum(ones, axis=0), 1.0)

    return Label({key: True}, derive, key, multi=True)


def clevr_count() -> Label:
    """Counts the objects in the scene, less 3, as there are 3 to 10: 8 classes."""

    def derive(features: Features) -> tf.Tensor:
        return tf.size(features["objects"]["size"], tf.int32) - 3

    return Label({"objects": {"size": True}}, derive)


def clevr_distance() -> Label:
    """Bins the distance to the closest object: 6 classes."""

    def derive(features: Features) -> tf.Tensor:
        depths = features["objects"]["pixel_coords"][:, 2]
        return _bin(tf.reduce_min(depths), _CLEVR_DISTANCES)

    return Label({"objects": {"pixel_coords": True}}, derive)


def kitti_distance() -> Label:
    """Bins the metres to the closest car, van or truck; 3 if there is none."""

    def derive(features: Features) -> tf.Tensor:
        kinds = features["objects"]["type"]
        depths = features["objects"]["location"][:, 2]
        vehicles = tf.boolean_mask(depths, kinds < _NUM_VEHICLES)
        closest = tf.reduce_min(tf.concat([vehicles, [_NO_VEHICLE]], axis=0))
        return _bin(closest, _KITTI_DISTANCES)

    return Label({"objects": {"type": True, "location": True}}, derive)


def grouped(key: str, size: float) -> Label:
    """Groups classes by floor(class / size): dSprites' 32 places and
    40 angles in 16 classes.
    """

    def derive(features: Features) -> tf.Tensor:
        return _class(tf.floor(tf.cast(features[key], tf.float32) / size))

    return Label({key: True}, derive)


def check_range(label: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Returns the int32 labels if all are in 0..num_classes-1.

    Raises:
        tf.errors.InvalidArgumentError: its message holds `OUT_OF_RANGE`.
    """
    message = f"{OUT_OF_RANGE}: need 0 to {num_classes - 1}"
    checks = [
        tf.debugging.assert_non_negative(label, message),
        tf.debugging.assert_less(label, num_classes, message),
    ]
    # Eagerly the checks have run already and are None.
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(label)


def _class(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.int32)


def _bin(value: tf.Tensor, thresholds: tuple[float, ...]) -> tf.Tensor:
    """Returns the greatest i with thresholds[i] < value; -1 if there is none."""
    below = tf.constant(thresholds) < tf.cast(value, tf.float32)
    return tf.reduce_sum(_class(below)) - 1
