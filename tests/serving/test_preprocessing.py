"""What an export says of pre-processing gives the pixels that evaluation shows."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_tf import config
from vit_tf.data import images
from vit_tf.serving import preprocessing


def _weights(old: int, new: int, *, area: bool) -> np.ndarray:
    """(new, old) shares of old pixels in each new one, written from the facts alone."""
    shares = np.zeros((new, old))
    for i in range(new):
        if area:  # the mean of the pixels below it
            begin, end = i * old / new, (i + 1) * old / new
            for j in range(old):
                shares[i, j] = max(0.0, min(end, j + 1) - max(begin, j))
            shares[i] /= shares[i].sum()
            continue
        center = (i + 0.5) * old / new - 0.5  # half-pixel centres
        left = int(np.floor(center))
        for j, share in ((left, left + 1 - center), (left + 1, center - left)):
            shares[i, np.clip(j, 0, old - 1)] += share
    return shares


def _prepare(image: np.ndarray, facts: dict) -> np.ndarray:
    height, width, _ = image.shape
    size, to = facts["image_size"], facts["resize_to"]
    target = (to, to)
    if facts["resize"] == "shorter_side":
        short = min(height, width)
        target = (round(height * to / short), round(width * to / short))
    area = facts["interpolation"] == "area"
    rows = _weights(height, target[0], area=area)
    columns = _weights(width, target[1], area=area)
    image = np.einsum("ih,jw,hwc->ijc", rows, columns, image)
    if facts["crop"] == "center":
        top, left = ((side - size) // 2 for side in target)
        image = image[top : top + size, left : left + size]
    return (image - facts["mean"]) / facts["std"]


@settings(max_examples=25, deadline=None)
@given(
    crop=st.sampled_from(list(config.EvalCrop)),
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    seed=st.integers(0, 9),
)
def test_the_facts_give_the_pixels_of_evaluation(crop, height, width, seed):
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (height, width, 3)).astype(np.uint8)
    view = config.View(image_size=16, eval_crop=crop)
    shown = images.evaluation_view(tf.io.encode_png(image), view).numpy()
    facts = preprocessing.recipe(view).facts()
    assert not facts["antialias"] and facts["channels"] == "RGB"
    np.testing.assert_allclose(_prepare(image, facts), shown, atol=2e-5)


@pytest.mark.parametrize("crop", list(config.EvalCrop))
def test_the_text_follows_from_the_facts(crop):
    recipe = preprocessing.recipe(config.View(image_size=224, eval_crop=crop))
    text = recipe.text()
    assert preprocessing.Recipe.from_facts(recipe.facts()) == recipe
    assert f"to {recipe.resize_to} " in text and "(x - 127.5) / 127.5" in text
    assert ("without antialiasing" in text) == (recipe.interpolation == "bilinear")
    assert ("in the middle" in text) == (recipe.resize_to != 224)
