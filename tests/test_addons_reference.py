"""Ours against what tensorflow-addons computed; see tools/addons_reference.

The arrays of tests/golden/ are committed, so that these tests do not need the
package. `make addons-reference` makes them again.
"""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from vit_tf import config
from vit_tf.data import randaugment
from vit_tf.training import optimizers

GOLDEN = pathlib.Path(__file__).parent / "golden"
IMAGES = dict(np.load(GOLDEN / "addons_images.npz"))
BYTES = dict(np.load(GOLDEN / "addons_bytes.npz"))
OPTIMIZERS = dict(np.load(GOLDEN / "addons_optimizers.npz"))
CASES = [name for name in IMAGES if "/" in name and not name.startswith("ones/")]

LR, DECAY, AVERAGE = 0.1, 0.01, 0.9  # as in tools/addons_reference/write.py


def _ours(image: tf.Tensor, operation: str, numbers: list[float]) -> tf.Tensor:
    if operation == "translate":
        x, y = numbers
        return randaugment.transform(image, [1.0, 0.0, x, 0.0, 1.0, y])
    if operation == "cutout":
        y, x, half = map(int, numbers)
        return randaugment.punch(image, tf.constant([y, x]), half=half)
    return getattr(randaugment, operation)(image, *numbers)


def _painted(image: np.ndarray, operation: str, numbers: list[float]) -> np.ndarray:
    """Addons leaves 0 outside the image; shows where, to put our grey there."""
    if operation not in ("rotate", "translate", "shear_x", "shear_y"):
        return np.zeros(image.shape, bool)
    return (
        np.asarray(_ours(tf.zeros_like(image), operation, numbers)) == randaugment.FILL
    )


@pytest.mark.parametrize("inside_tf_data", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_images_are_those_of_addons_pixel_by_pixel(case, inside_tf_data):
    name, operation, *numbers = case.split("/")
    image, numbers = IMAGES[name], [float(n) for n in numbers]
    if inside_tf_data:
        dataset = tf.data.Dataset.from_tensors(image)
        dataset = dataset.map(lambda i: _ours(i, operation, numbers))
        (ours,) = dataset.as_numpy_iterator()
    else:
        ours = _ours(tf.constant(image), operation, numbers).numpy()
    assert ours.dtype == np.uint8
    if operation == "sharpness":
        _assert_sharp(ours, name, image, *numbers)
        return
    outside = _painted(image, operation, numbers)
    assert (IMAGES[case][outside] == 0).all()
    expected = np.where(outside, randaugment.FILL, IMAGES[case])
    np.testing.assert_array_equal(ours, expected)


def _assert_sharp(ours, name: str, image: np.ndarray, factor: float) -> None:
    """Addons' blend rounds; RandAugment's, which has its own, cuts fractions off.

    So the smoothed image is compared, which is what factor 0 gives, and the blend of
    addons' smoothed image with the original.
    """
    smooth = IMAGES[f"{name}/sharpness/0.0"].astype("float32")
    blend = smooth + np.float32(factor) * (image.astype("float32") - smooth)
    expected = blend.clip(0, 255).astype(int)
    theirs = IMAGES[f"{name}/sharpness/{factor}"].astype(int)
    assert abs(expected - theirs).max() <= 1
    # Another machine's convolution may round to the other side of a whole number.
    slack = np.ceil(abs(1 - factor)) * (_weighted_sum(image) % 13 == 0)
    assert (abs(ours - expected) <= slack).all()


def _weighted_sum(image: np.ndarray) -> np.ndarray:
    """Thirteen times Pillow's smoothed image, -1 at the edge."""
    pixels = image.astype(int)
    height, width, _ = image.shape
    total = 4 * pixels[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + pixels[y : height - 2 + y, x : width - 2 + x]
    return np.pad(total, [(1, 1), (1, 1), (0, 0)], constant_values=-1)


def test_what_is_grey_after_a_turn_is_what_was_outside():
    ones = tf.ones_like(IMAGES["noise"])
    turned = randaugment.rotate(ones, 30.0).numpy()[..., :1]
    expected = IMAGES["ones/rotate/30.0"]
    np.testing.assert_array_equal(turned == randaugment.FILL, expected == 0)


@pytest.mark.parametrize("threshold", [256, 384, 512])
def test_solarize_takes_thresholds_modulo_256_as_numpy_1_did(threshold):
    every = np.arange(256, dtype=np.uint8)
    below = BYTES[f"below/{threshold}"]
    expected = np.where(below, every, 255 - every)
    ours = randaugment.solarize(tf.constant(every), threshold)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("bits", "shift"), [(0, 8), (1, 7)])
def test_posterize_to_no_bit_keeps_one_as_tensorflow_does(bits, shift):
    every = tf.range(256)
    ours = randaugment.posterize(tf.cast(every, tf.uint8), bits)
    np.testing.assert_array_equal(ours, BYTES[f"shifted/{shift}"])


def _paths(**changes) -> tuple[np.ndarray, np.ndarray]:
    """Weights and their average after every step of one of our rules."""
    variable = keras.Variable(OPTIMIZERS["start"], name="kernel")
    cfg = config.Optim(lr=LR, schedule="constant", polyak=AVERAGE, **changes)
    steps = len(OPTIMIZERS["gradients"])
    optimizer = optimizers.build(cfg, total_steps=steps, variables=[variable])
    optimizer.start_average()
    weights, averages = [], []
    for gradient in OPTIMIZERS["gradients"]:
        optimizer.apply([tf.constant(gradient)], [variable])
        weights.append(variable.numpy())
        averages.append(optimizer.averages[0].numpy())
    return np.stack(weights), np.stack(averages)


@pytest.mark.parametrize(("rule", "theirs"), [("adam", "adamw"), ("sgd", "sgdw")])
def test_update_rules_are_those_of_addons(rule, theirs):
    """Addons decays by wd, we by lr * weight_decay: weight_decay = wd / lr."""
    ours, _ = _paths(rule=rule, momentum=0.9, weight_decay=DECAY / LR)
    np.testing.assert_allclose(ours, OPTIMIZERS[theirs], rtol=1e-5, atol=1e-6)
    wrong, _ = _paths(rule=rule, momentum=0.9, weight_decay=DECAY)
    assert abs(wrong - OPTIMIZERS[theirs]).max() > 1e-2


def test_the_polyak_average_is_addons_moving_average():
    _, ours = _paths(rule="sgd", momentum=0.0)
    np.testing.assert_allclose(ours, OPTIMIZERS["moving_average"], rtol=1e-6, atol=1e-6)


def test_lamb_without_decay_is_keras_lamb():
    """We have no LAMB; Keras' may be used for it, without weight decay."""
    variable = keras.Variable(OPTIMIZERS["start"])
    optimizer = keras.optimizers.Lamb(LR, epsilon=1e-6)
    optimizer.build([variable])
    for gradient, expected in zip(OPTIMIZERS["gradients"], OPTIMIZERS["lamb"]):
        optimizer.apply([tf.constant(gradient)], [variable])
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_arrays_are_small_enough_to_keep():
    assert sum(f.stat().st_size for f in GOLDEN.glob("addons_*.npz")) < 300_000
