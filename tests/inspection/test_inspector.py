"""What is looked at: a stored model, its images, its classes and its answers."""

import dataclasses

import numpy as np
import pytest

from tests.support import tiny, twins
from vit_tf import errors
from vit_tf.inspection import attention_statistics, image_sets, inspector
from vit_tf.runs import stored_weights


def _open(path, data_dir, **changes):
    changes = {"images": "digits", "max_images": 6, **changes}
    return inspector.open_stored(
        str(path), machine=tiny.one_device(), data_dir=data_dir, **changes
    )


def _shown(model, number=3):
    pixels = twins.images(model, batch=number)
    return image_sets.Gallery(pixels, ("a",) * number, None, "places", number)


def test_a_run_answers_with_its_classes(evaluated, data_dir):
    seen = _open(evaluated, data_dir)
    logits = np.asarray(seen.network(seen.images.pixels, training=False))
    shares = seen.probabilities
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_array_equal(shares.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(
        np.log(shares[:, 0] / shares[:, 1]), logits[:, 0] - logits[:, 1], atol=1e-3
    )
    assert seen.name == "ViT-mu/8 (evaluated)"
    assert seen.class_name(3) == "3" and seen.images.labels is not None
    assert seen.shown_images == "6 of 400 images of digits test, 16 px"


def test_an_npz_of_other_classes_is_not_told_the_labels(tmp_path, data_dir):
    path = tmp_path / "other.npz"
    stored_weights.save_weights(twins.transformer(classes=5), str(path))
    # Five classes cannot be those of digits, and nobody knows their names.
    seen = _open(path, data_dir)
    assert seen.images.labels is None and seen.class_name(3) == "class 3"
    # Ten may be those of digits, or ten others: they are numbers.
    ten = tmp_path / "ten.npz"
    stored_weights.save_weights(twins.transformer(classes=10), str(ten))
    seen = _open(ten, data_dir)
    assert seen.images.labels is None and seen.class_name(3) == "class 3"


def test_another_size_is_shown_at_that_size(evaluated, data_dir):
    seen = _open(evaluated, data_dir, image_size=32)
    assert seen.images.pixels.shape == (6, 32, 32, 3)
    assert seen.measured.rollout.shape == (6, 4, 4)


def test_sigmoid_classes_are_independent():
    model = twins.filled(twins.TWINS["gap+sincos2d"]())
    seen = inspector.Inspector(model, "name", _shown(model), sigmoid=True)
    logits = np.asarray(model(seen.images.pixels, training=False), np.float64)
    np.testing.assert_allclose(seen.probabilities, 1 / (1 + np.exp(-logits)), 1e-4)


@pytest.mark.parametrize("name", ["unpooled", "features"])
def test_models_without_answers_have_none(name):
    model = twins.transformer(classes=0) if name == "features" else twins.TWINS[name]()
    assert inspector.Inspector(model, "name", _shown(model)).probabilities is None


def test_without_images_there_is_nothing_to_measure():
    with pytest.raises(errors.UserError, match="needs images: name them with --images"):
        _ = inspector.Inspector(twins.TWINS["map"](), "name").measured


def test_a_batch_fits_in_memory_and_can_be_compared():
    for tokens, size in ((17, 64), (197, 27), (1025, 7)):
        large = dataclasses.make_dataclass("Large", ["num_heads", "num_tokens"])
        assert inspector.Inspector(large(16, tokens), "name").batch_size == size


def test_layers_are_compared_over_every_image(monkeypatch):
    monkeypatch.setattr(inspector, "_MEMORY", 1)  # seven images at a time
    model = twins.filled(twins.TWINS["token"]())
    shown = _shown(model, 8)
    got = inspector.Inspector(model, "name", shown).measured.similarity
    halves = [shown.pixels[:4], shown.pixels[4:]]
    want = attention_statistics.measure(model, halves).similarity
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow  # the probes of the command are in test_visualize.py
def test_probes_need_two_splits(evaluated, data_dir):
    seen = _open(evaluated, data_dir, split="train")
    found = seen.probe()  # whatever is shown, they learn and are tested apart
    assert (found.train, found.test) == (1197, 400)
    assert _open(evaluated, data_dir, images=None).probe is None
