"""Writes what tensorflow-addons computes, for the ordinary tests to compare with.

The package is at its end: its last release needs Python 3.11 or older, TensorFlow
below 2.16 and Keras 2, so this runs in an environment of its own. `make
addons-reference` builds that and runs this; nothing else of the project does.

    python tools/addons_reference/write.py tests/golden
"""

import hashlib
import pathlib
import sys

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

# What the cases are named after; the tests read the numbers from the names.
DEGREES = (-30.0, 15.0, 60.0)
SHIFTS = ((3.0, 0.0), (0.0, -4.0), (2.5, 1.5), (100.0, 0.0))
LEVELS = (0.3, -0.15)
FACTORS = (0.0, 0.64, 1.0, 1.9)
SQUARES = ((16, 20, 4), (2, 39, 8))  # centre y, x and half the side
STEPS, LR, DECAY, AVERAGE = 8, 0.1, 0.01, 0.9


def pictures() -> dict[str, np.ndarray]:
    """Makes small images: noise, a smooth one of few values, and a flat one; uint8."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:24, :32]
    return {
        "noise": rng.randint(0, 256, (33, 41, 3)).astype(np.uint8),
        "smooth": np.stack([y * 3 + 40, x * 5 + 20, x + y], -1).astype(np.uint8),
        "flat": np.full((9, 7, 3), 77, np.uint8),
    }


def image_cases() -> dict[str, np.ndarray]:
    """Computes every image operation: 'picture' and 'picture/operation/number'."""
    cases = {}
    for name, image in pictures().items():
        cases[name] = image
        made = {"equalize": tfa.image.equalize(image)}
        for degrees in DEGREES:
            angle = tf.constant(degrees, tf.float32) * (np.pi / 180.0)
            made[f"rotate/{degrees}"] = tfa.image.rotate(image, angle)
        for x, y in SHIFTS:
            made[f"translate/{x}/{y}"] = tfa.image.translate(image, [-x, -y])
        for level in LEVELS:
            along_x = [1.0, level, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
            along_y = [1.0, 0.0, 0.0, level, 1.0, 0.0, 0.0, 0.0]
            made[f"shear_x/{level}"] = tfa.image.transform(image, along_x)
            made[f"shear_y/{level}"] = tfa.image.transform(image, along_y)
        for factor in FACTORS:
            made[f"sharpness/{factor}"] = tfa.image.sharpness(image, factor)
        cases |= {f"{name}/{case}": value.numpy() for case, value in made.items()}
    image = cases["noise"]
    for y, x, half in SQUARES:
        hole = tfa.image.cutout(
            tf.constant(image[None]), (2 * half, 2 * half), (y, x), constant_values=128
        )
        cases[f"noise/cutout/{y}/{x}/{half}"] = hole.numpy()[0]
    # The fill of the geometric operations: addons fills with 0, the reference of
    # RandAugment finds those places by a channel of ones and paints them.
    ones = np.ones_like(image[..., :1])
    turned = tfa.image.rotate(ones, np.float32(np.pi / 6))
    cases["ones/rotate/30.0"] = turned.numpy()
    return cases


def byte_cases() -> dict[str, np.ndarray]:
    """Computes what a graph of this TensorFlow and NumPy make of numbers beyond a byte."""
    every = np.arange(256, dtype=np.uint8)
    cases = {}
    for threshold in (256, 384, 512):
        below = tf.function(lambda v, t=threshold: v < t)
        cases[f"below/{threshold}"] = below(tf.constant(every)).numpy()
    for shift in (7, 8):
        there_and_back = tf.function(
            lambda v, s=shift: tf.bitwise.left_shift(tf.bitwise.right_shift(v, s), s)
        )
        cases[f"shifted/{shift}"] = there_and_back(tf.constant(every)).numpy()
    return cases


def optimizer_cases() -> dict[str, np.ndarray]:
    """Computes the weights after every step of every rule, and their moving average.

    LAMB without decay only: the project has no rule of its own, Keras' takes its
    place, and that one decays outside the trust ratio where addons' decays inside,
    so with decay the two are different algorithms.
    """
    rng = np.random.RandomState(1)
    start = rng.randn(6).astype(np.float32)
    gradients = rng.randn(STEPS, 6).astype(np.float32)
    cases = {"start": start, "gradients": gradients}
    rules = {
        "adamw": tfa.optimizers.AdamW(DECAY, learning_rate=LR, epsilon=1e-8),
        "sgdw": tfa.optimizers.SGDW(DECAY, learning_rate=LR, momentum=0.9),
        "lamb": tfa.optimizers.LAMB(LR),
    }
    for name, rule in rules.items():
        weights, path = tf.Variable(start), []
        for gradient in gradients:
            rule.apply_gradients([(tf.constant(gradient), weights)])
            path.append(weights.numpy())
        cases[name] = np.stack(path)
    plain = tf.keras.optimizers.legacy.SGD(LR)
    averaged = tfa.optimizers.MovingAverage(plain, average_decay=AVERAGE)
    weights, path = tf.Variable(start), []
    for gradient in gradients:
        averaged.apply_gradients([(tf.constant(gradient), weights)])
        path.append(averaged.get_slot(weights, "average").numpy())
    cases["moving_average"] = np.stack(path)
    return cases


def write(path: pathlib.Path, cases: dict[str, np.ndarray]) -> None:
    """Writes an .npz and says whether an array differs from the one before."""
    before = dict(np.load(path)) if path.exists() else {}
    changed = sorted(
        name
        for name in cases.keys() | before.keys()
        if name not in cases
        or name not in before
        or _digest(cases[name]) != _digest(before[name])
    )
    if not changed:
        print(f"{path}: unchanged, {len(cases)} arrays")
        return
    np.savez_compressed(path, **cases)
    print(f"{path}: CHANGED, {len(changed)} of {len(cases)}: {', '.join(changed[:8])}")


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")  # addons retraces for every size
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "addons_images.npz", image_cases())
    write(folder / "addons_bytes.npz", byte_cases())
    write(folder / "addons_optimizers.npz", optimizer_cases())
