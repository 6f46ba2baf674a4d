"""Drawings show the numbers they are given, with titles, axes and units."""

import io
import pathlib

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_tf.inspection import plots


def _pixels(drawn):
    return matplotlib.image.imread(io.BytesIO(plots.encode(drawn, "png")))


# The light on an image: Figure 6 -------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    side=st.integers(1, 6),
    patch=st.sampled_from([2, 4, 16]),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_light_goes_from_0_to_1_whatever_the_scale(side, patch, seed, scale):
    weight = np.random.default_rng(seed).uniform(0, 1, (side, side))
    size = (side * patch, side * patch + 3)
    light = plots.mask(scale * weight, size, patch)
    assert light.shape == size and light.max() == 1
    assert light.min() == 0 or np.ptp(light) == 0
    # Division by the largest takes the scale away, up to one of 255 steps.
    np.testing.assert_allclose(light, plots.mask(weight, size, patch), atol=0.1)


def test_the_brightest_patch_is_lit_and_the_blur_is_one_patch_wide():
    weight = np.zeros((7, 7))
    weight[2, 5] = 0.3
    light = plots.mask(weight, (112, 112), 16)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert 32 <= row < 48 and 80 <= column < 96
    assert light[0, 0] == 0
    profile = light[row] > 0.5
    # A patch of 16 pixels after a Gaussian of standard deviation 16: about 2.6 wide.
    assert 35 <= profile.sum() <= 50


def test_even_attention_lights_all_of_an_image():
    assert (plots.mask(np.full((4, 4), 0.2), (16, 16), 4) == 1).all()
    assert (plots.mask(np.zeros((4, 4)), (16, 16), 4) == 1).all()


def test_heat_is_seen_on_black_and_leaves_the_image_where_there_is_none():
    weight = np.zeros((4, 4))
    weight[0, 0] = 1
    drawn = plots.heat(np.zeros((64, 64, 3)), weight, patch_size=16)
    assert drawn[:8, :8].max() > 0.8  # where `mask` would leave black
    np.testing.assert_allclose(drawn[-8:, -8:], 0, atol=0.02)
    stroke = np.zeros((64, 64, 3))
    stroke[:, 32:] = 1
    drawn = plots.heat(stroke, weight, patch_size=16)
    assert (drawn[-8:, -8:] > drawn[-8:, :8] + 0.4).all()
    assert drawn.min() >= 0 and drawn.max() <= 1


# Figures -------------------------------------------------------------------------


def _heads(blocks=3, heads=2):
    values = np.linspace(1, 9, blocks * heads).reshape(blocks, heads)
    return plots.heads(
        values, title="name", label="distance [pixels]", reference=(12.0, "uniform")
    ), values


def test_every_head_is_a_dot_at_its_depth():
    drawn, values = _heads()
    axes, bar = drawn.axes
    (dots,) = axes.collections
    want = [(1, *values[0, :1]), (1, *values[0, 1:]), (2, values[1, 0])]
    np.testing.assert_allclose(dots.get_offsets()[:3], want)
    np.testing.assert_array_equal(dots.get_array(), [1, 2, 1, 2, 1, 2])
    assert axes.get_ylabel() == "distance [pixels]" and bar.get_ylabel() == "head"
    assert axes.get_xlabel() == "network depth (layer)"
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 12


def test_similarity_has_one_scale_for_all_models():
    rng = np.random.default_rng(0)
    grids = {"one": rng.uniform(-1, 1, (16, 16)), "two": rng.uniform(0, 1, (144, 144))}
    drawn = plots.position_similarity(grids)
    *panels, bar = drawn.axes
    for axes, (title, matrix) in zip(panels, grids.items()):
        (image,) = axes.images
        assert image.get_clim() == (-1, 1) and axes.get_title() == title
        shown = image.get_array()
        assert np.sort(shown.compressed()).tolist() == np.sort(matrix.ravel()).tolist()
    assert bar.get_ylabel() == "cosine similarity"


@pytest.mark.parametrize("number", [1, 5, 130])
def test_a_sheet_of_rollouts_shows_every_image(number):
    """One image or hundreds: each is there with its number, beside itself lit."""
    colours = np.linspace(0.2, 0.9, number)
    images = np.ones((number, 16, 16, 3)) * colours[:, None, None, None]
    maps = np.zeros((number, 4, 4))
    maps[:, 1, 1] = 1
    drawn = plots.rollout(
        images, maps, [f"cat {i}" for i in range(number)], patch_size=4, title="title"
    )
    (axes,) = drawn.axes
    sheet = axes.images[0].get_array()
    for colour in colours:
        whole = (np.abs(sheet - colour) < 1e-9).all(axis=-1).sum()
        assert whole >= 16 * 16 + 1  # the image, and where its copy is fully lit
    words = [text.get_text() for text in axes.texts]
    assert [word.split()[0] for word in words] == [str(i + 1) for i in range(number)]
    assert ("cat 0" in words[0]) == (number < 100)
    assert max(drawn.get_size_inches()) < 25


def test_filters_are_shown_as_they_are():
    components = np.random.default_rng(0).uniform(0, 1, (9, 4, 4, 3))
    sheet = plots.filters(components, title="title").axes[0].images[0].get_array()
    np.testing.assert_array_equal(sheet[:4, :4], components[0])
    np.testing.assert_array_equal(sheet[5:9, 5:9], components[8])  # second row


def test_layers_and_probes_are_drawn_with_their_units():
    axes, bar = plots.layers(np.eye(5), title="title").axes
    assert bar.get_ylabel() == "linear CKA" and "layer" in axes.get_xlabel()
    accuracy = np.array([0.1, 0.5, 0.25])
    (axes,) = plots.probes(accuracy, chance=0.1, title="title").axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * accuracy)
    assert axes.get_ylabel() == "accuracy [%]"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "out"]


def test_the_same_drawing_is_the_same_file(tmp_path):
    stem = str(tmp_path / "heads")
    paths = plots.save(_heads()[0], stem)
    assert paths == [f"{stem}.png", f"{stem}.svg"]
    first = [pathlib.Path(path).read_bytes() for path in paths]
    plots.save(_heads()[0], stem)
    assert first == [pathlib.Path(path).read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG") and b"<svg" in first[1]
    assert _pixels(_heads()[0]).shape[1] > 600
