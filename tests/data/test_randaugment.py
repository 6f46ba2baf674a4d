"""RandAugment: every operation against NumPy, and what the seed decides.

The geometric operations, equalize and sharpness are compared with other people's
code in tests/test_addons_reference.py.
"""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vit_tf import config
from vit_tf.data import images, randaugment

MAGNITUDES = (0, 3, 10, 15, 20)


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 257, 2))
    shape = (height, width, 3)
    return rng.integers(low, max(high, low + 1), shape).astype(np.uint8)


def _key(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def _blend(degenerate: np.ndarray, image: np.ndarray, magnitude: int) -> np.ndarray:
    factor = np.float32(magnitude / 10 * 1.8 + 0.1)
    degenerate = degenerate.astype("float32")
    mixed = degenerate + factor * (image.astype("float32") - degenerate)
    return mixed.clip(0, 255).astype(np.uint8)


def _autocontrast(image, magnitude):
    pixels, result = image.astype("float32"), image.copy()
    for channel in range(3):
        low, high = pixels[..., channel].min(), pixels[..., channel].max()
        if high > low:
            scale = np.float32(255) / (high - low)
            stretched = pixels[..., channel] * scale + -low * scale
            result[..., channel] = stretched.clip(0, 255)
    return result


def _posterize(image, magnitude):
    bits = max(int(magnitude / 10 * 4), 1)  # not fewer than one
    return image >> (8 - bits) << (8 - bits)


def _solarize(image, magnitude):
    threshold = int(magnitude / 10 * 256) % 256
    return np.where(image < threshold, image, 255 - image)


def _solarize_add(image, magnitude):
    added = np.minimum(image.astype(int) + int(magnitude / 10 * 110), 255)
    return np.where(image < 128, added, image).astype(np.uint8)


def _color(image, magnitude):
    weights = np.array([0.2989, 0.587, 0.114])
    grey = (image / 255.0) @ weights
    # As tf.image converts floats to bytes.
    grey = (grey * 255.5).astype(np.uint8)[..., None]
    return _blend(np.repeat(grey, 3, axis=-1), image, magnitude)


def _contrast(image, magnitude):
    level = int(min(image.shape[0] * image.shape[1] / 256, 255))
    return _blend(np.full_like(image, level), image, magnitude)


REFERENCE = {
    "autocontrast": _autocontrast,
    "equalize": lambda i, m: np.asarray(ImageOps.equalize(Image.fromarray(i))),
    "invert": lambda i, m: 255 - i,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": lambda i, m: _blend(np.zeros_like(i), i, m),
}


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    magnitude=st.sampled_from(MAGNITUDES) | st.integers(0, 20),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", REFERENCE)
def test_operations_are_those_of_numpy(name, height, width, magnitude, seed):
    image = _noise(height, width, seed)
    ours = randaugment.distort(tf.constant(image), name, _key(0), magnitude=magnitude)
    assert ours.dtype == tf.uint8 and ours.shape == image.shape
    expected = REFERENCE[name](image, magnitude).astype(int)
    # Grey is a float product: at most one level from another order of adding.
    limit = 1 if name == "color" else 0
    assert abs(ours.numpy() - expected).max() <= limit * max(1, magnitude // 5)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_operations_are_the_same_inside_tf_data(name, magnitude):
    image = _noise(20, 26)

    def view(key):
        return randaugment.distort(tf.constant(image), name, key, magnitude=magnitude)

    keys = [_key(i) for i in range(3)]
    dataset = tf.data.Dataset.from_tensor_slices(keys).map(view)
    for key, ours in zip(keys, dataset.as_numpy_iterator()):
        np.testing.assert_array_equal(ours, view(key))


def test_there_are_sixteen_operations():
    assert len(randaugment.OPERATIONS) == 16


@pytest.mark.parametrize(
    ("magnitude", "bits", "turned_from", "factor"),
    [(0, 1, 0, 0.1), (10, 4, 0, 1.9), (15, 6, 128, 2.8), (20, 8, 0, 3.7)],
)
def test_the_edges_of_the_magnitudes(magnitude, bits, turned_from, factor):
    """Magnitude 0 is not nothing, and solarize does not grow beyond 10."""
    every = tf.reshape(tf.cast(tf.range(256), tf.uint8), (16, 16, 1))
    every = tf.tile(every, (1, 1, 3))

    def of(name):
        return randaugment.distort(every, name, _key(0), magnitude=magnitude).numpy()

    kept = of("posterize")
    assert len(np.unique(kept)) == 2**bits
    changed = of("solarize")[..., 0].reshape(-1) != np.arange(256)
    assert changed.argmax() == turned_from and changed[turned_from:].all()
    brighter = (
        (np.arange(256, dtype="float32") * np.float32(factor)).clip(0, 255).astype(int)
    )
    np.testing.assert_array_equal(of("brightness")[..., 0].reshape(-1), brighter)


def test_magnitude_5_leaves_blends_as_they_are():
    image = tf.constant(_noise(9, 9))
    for name in ("color", "contrast", "brightness", "sharpness"):
        ours = randaugment.distort(image, name, _key(0), magnitude=5)
        np.testing.assert_array_equal(ours, image)


def test_contrast_is_around_196_at_224_pixels():
    image = tf.fill((224, 224, 3), tf.constant(100, tf.uint8))
    ours = randaugment.contrast(image, 0.0)
    assert np.unique(ours).tolist() == [196]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rotate", (randaugment.rotate, (-30.0, 30.0))),
        ("shear_x", (randaugment.shear_x, (-0.3, 0.3))),
        ("shear_y", (randaugment.shear_y, (-0.3, 0.3))),
        ("translate_x", (randaugment.translate_x, (-100.0, 100.0))),
        ("translate_y", (randaugment.translate_y, (-100.0, 100.0))),
    ],
)
def test_signs_of_shifts_are_fair_coins(name, values):
    image = tf.constant(_noise(120, 120, seed=1))
    move, amounts = values
    expected = {move(image, tf.constant(a)).numpy().tobytes(): a for a in amounts}
    assert len(expected) == 2

    @tf.function
    def view(number):
        key = tf.stack([tf.constant(7), number])
        return randaugment.distort(image, name, key, magnitude=10)

    found = [expected[view(tf.constant(i)).numpy().tobytes()] for i in range(100)]
    assert 30 <= found.count(amounts[0]) <= 70  # four standard deviations


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    number=st.integers(0, 10**6), half=st.sampled_from([0, 1, 4, 40]), data=st.data()
)
def test_cutout_is_a_grey_square_cut_at_the_edge(number, half, data):
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    image = tf.zeros((height, width, 3), tf.uint8)
    hole = randaugment.cutout(image, _key(number), half=half).numpy()
    assert set(np.unique(hole)) <= {0, randaugment.FILL}
    rows, columns = (hole[..., 0] > 0).any(axis=1), (hole[..., 0] > 0).any(axis=0)
    assert (hole[..., 0] > 0).sum() == rows.sum() * columns.sum()
    for side in (rows, columns):
        assert side.sum() <= 2 * half
        if half:
            # Its centre is inside, so at least half of it is, or the whole image.
            assert side.sum() >= min(half, len(side))
            if not (side[0] or side[-1]):
                assert side.sum() == 2 * half


def test_holes_are_everywhere():
    image = tf.zeros((10, 10, 3), tf.uint8)
    seen = sum(
        randaugment.cutout(image, _key(i), half=1).numpy() > 0 for i in range(400)
    )
    assert seen.min() > 0


@pytest.fixture(scope="module")
def views():
    """`views(numbers, layers, magnitude)`: RandAugment of one image, stacked."""
    image = _noise(32, 32, seed=5)

    def make(numbers, layers=2, magnitude=15):
        dataset = tf.data.Dataset.from_tensor_slices([_key(n) for n in numbers])
        dataset = dataset.map(
            lambda key: randaugment.rand_augment(
                tf.constant(image), key, layers=layers, magnitude=magnitude
            ),
            num_parallel_calls=2,
        )
        assert dataset.element_spec == tf.TensorSpec((32, 32, 3), tf.uint8)
        return np.stack(list(dataset.as_numpy_iterator()))

    return make


def test_the_seed_decides_everything(views):
    tf.random.set_seed(1)
    once, others = np.split(views(range(24)), 2)
    tf.random.set_seed(2)
    np.testing.assert_array_equal(views(range(12)), once)
    assert len({view.tobytes() for view in once}) >= 8
    assert (others != once).any()


def test_eager_and_tf_data_agree(views):
    image = tf.constant(_noise(32, 32, seed=5))
    for number, expected in enumerate(views(range(4))):
        ours = randaugment.rand_augment(image, _key(number), layers=2, magnitude=15)
        np.testing.assert_array_equal(ours, expected)


def test_layers_follow_each_other_with_their_own_draws(views):
    """Every layer draws from all sixteen, independently of the others."""
    image = tf.constant(_noise(32, 32, seed=5))
    magnitude, drawn = 7, []
    for number, expected in enumerate(views(range(60), layers=2, magnitude=magnitude)):
        result = image
        for key in tf.unstack(tf.random.experimental.stateless_split(_key(number), 2)):
            which, inside = tf.unstack(tf.random.experimental.stateless_split(key, 2))
            place = int(tf.random.stateless_uniform((), which, 0, 16, tf.int32))
            drawn.append(place)
            name = list(randaugment.OPERATIONS)[place]
            result = randaugment.distort(result, name, inside, magnitude=magnitude)
        np.testing.assert_array_equal(result, expected)
    assert set(drawn) == set(range(16))
    first, second = drawn[::2], drawn[1::2]
    assert sum(a == b for a, b in zip(first, second)) < 15, "expected 60 / 16"


def test_it_comes_after_the_flip_and_is_off_by_default():
    encoded = tf.io.encode_png(_noise(40, 50)).numpy()
    plain = config.Data(image_size=32)
    strong = config.Data(image_size=32, randaug_layers=2, randaug_magnitude=15)
    for number in range(4):
        key = _key(number)
        _, _, last = tf.unstack(tf.random.experimental.stateless_split(key, 3))
        before = images.training_view(encoded, plain, key)
        after = randaugment.rand_augment(before, last, layers=2, magnitude=15)
        ours = images.training_view(encoded, strong, key)
        np.testing.assert_array_equal(ours, after)
