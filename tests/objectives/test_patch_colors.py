"""The colours of patches against NumPy, and on colours that one knows."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from vit_tf.objectives import patch_colors


@pytest.mark.parametrize(
    ("color", "number"),
    [
        ((0, 0, 0), 0),
        ((255, 255, 255), 511),
        ((255, 0, 0), 7 * 64),
        ((0, 255, 0), 7 * 8),
        ((0, 0, 255), 7),
        ((31, 31, 31), 0),  # 8 * 31 / 255 < 1
        ((32, 32, 32), 73),  # 8 * 32 / 255 > 1
        ((223, 128, 64), 6 * 64 + 4 * 8 + 2),
    ],
)
def test_pure_colors(color, number):
    image = np.broadcast_to(np.array(color, np.uint8), (1, 32, 32, 3))
    targets = patch_colors.mean_colors(tf.constant(image), 16)
    assert targets.dtype == tf.int32 and targets.shape == (1, 4)
    assert np.unique(targets).tolist() == [number]
    small = patch_colors.shrunk_colors(tf.constant(image), 16)
    assert small.shape == (1, 4, 16) and np.unique(small).tolist() == [number]


def test_patches_and_cells_are_in_raster_order():
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[0, 4:, :4] = 255  # the third patch of four
    assert patch_colors.mean_colors(tf.constant(red), 4)[0].numpy().tolist() == [
        *(0, 0, 511, 0)
    ]
    cells = patch_colors.shrunk_colors(tf.constant(red), 8, side=2)
    assert cells[0, 0].numpy().tolist() == [0, 0, 511, 0]


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    cell=st.integers(1, 4),
    side=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 999),
)
def test_targets_are_those_of_numpy(rows, columns, cell, side, seed):
    patch = cell * side
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (2, rows * patch, columns * patch, 3), np.uint8)
    expected = []
    for picture in image:
        for y in range(0, rows * patch, patch):
            for x in range(0, columns * patch, patch):
                for v in range(0, patch, cell):
                    for u in range(0, patch, cell):
                        part = picture[y + v :, x + u :][:cell, :cell]
                        sums = part.reshape(-1, 3).sum(axis=0, dtype=int)
                        r, g, b = (
                            min(int(s) * 8 // (255 * cell * cell), 7) for s in sums
                        )
                        expected.append(64 * r + 8 * g + b)
    expected = np.reshape(expected, (2, rows * columns, side * side))
    ours = patch_colors.shrunk_colors(tf.constant(image), patch, side=side)
    np.testing.assert_array_equal(ours, expected)
    if side == 1:
        means = patch_colors.mean_colors(tf.constant(image), patch)
        np.testing.assert_array_equal(means, expected[..., 0])


def test_they_compile():
    image = tf.zeros((2, 32, 32, 3), tf.uint8)
    compiled = tf.function(patch_colors.shrunk_colors, jit_compile=True)
    assert compiled(image, 16).shape == (2, 4, 16)


def test_sizes_that_do_not_divide_are_an_error():
    image = tf.zeros((1, 30, 32, 3), tf.uint8)
    with pytest.raises(ValueError, match="30x32, patches of 16"):
        patch_colors.mean_colors(image, 16)
    with pytest.raises(ValueError, match="patches of 2, 4 cells"):
        patch_colors.shrunk_colors(image, 2)
