"""The front door: what a Keras user knows works, and a loaded model answers."""

import doctest
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import vit_tf
from tests.support import tiny
from vit_tf import api
from vit_tf.models import npz_weights

SIZE = 32


def _create(**settings):
    keras.utils.set_random_seed(0)
    return vit_tf.create("ViT-mu/16", num_classes=3, image_size=SIZE, **settings)


def _data(number=16):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (number, SIZE, SIZE, 3)).astype(np.float32)
    return pixels, rng.integers(0, 3, number)


def _compile(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.1}, {"stochastic_depth": 0.2}])
def test_fit_evaluate_and_predict(settings):
    model, (pixels, labels) = _compile(_create(**settings)), _data()
    stopper = keras.callbacks.EarlyStopping("loss", patience=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = model.fit(
            pixels, labels, epochs=30, batch_size=8, callbacks=[stopper], verbose=0
        )
    losses = history.history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert model.evaluate(pixels, labels, verbose=0, return_dict=True)["accuracy"] > 0.5
    assert model.predict(pixels, verbose=0).shape == (16, 3)


def test_dropout_in_fit_draws_anew_in_every_step():
    model, (pixels, labels) = _compile(_create(dropout=0.5)), _data()
    model.fit(pixels, labels, verbose=0)  # the head begins with zeros
    model.optimizer.learning_rate = 0.0
    draws = {
        model.train_on_batch(pixels, labels, return_dict=True)["loss"] for _ in range(4)
    }
    assert len(draws) == 4
    same = {model.test_on_batch(pixels, labels)[0] for _ in range(2)}
    assert len(same) == 1


@pytest.mark.parametrize("kind", ["tf.data", "generator", "sequence"])
def test_fit_takes_what_gives_batches(kind):
    pixels, labels = _data()
    batches = [(pixels[i : i + 8], labels[i : i + 8]) for i in (0, 8)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return batches[number]

    given = {
        "tf.data": tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(8),
        "generator": (batch for batch in batches),
        "sequence": Batches(),
    }[kind]
    history = _compile(_create()).fit(given, verbose=0)
    assert np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize("variant", ["ViT-mu/16", "R50x1", "R50+ViT-B/16"])
def test_summary_has_shapes(variant):
    lines = []
    model = vit_tf.create(variant, num_classes=3, image_size=SIZE)
    model.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert "?" not in text and "(None, 3)" in text


def test_a_saved_model_is_loaded_with_the_same_logits(tmp_path):
    model, (pixels, labels) = _compile(_create(dropout=0.1)), _data()
    model.fit(pixels, labels, verbose=0)
    model.save(tmp_path / "mine.keras")
    loaded = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_array_equal(
        loaded.predict(pixels, verbose=0), model.predict(pixels, verbose=0)
    )


def test_a_backbone_in_a_model_of_ones_own():
    backbone = vit_tf.create("ViT-mu/16", num_classes=0, image_size=SIZE, dropout=0.1)
    inputs = keras.Input((SIZE, SIZE, 3))
    whole = keras.Model(inputs, keras.layers.Dense(3)(backbone(inputs)))
    before = [v.numpy() for v in backbone.trainable_variables]
    backbone.trainable = False
    pixels, labels = _data()
    _compile(whole).fit(pixels, labels, verbose=0)
    assert len(whole.trainable_variables) == 2
    for was, now in zip(before, backbone.variables):
        np.testing.assert_array_equal(was, now.numpy())


def test_frozen_layers_stay():
    model, (pixels, labels) = _create(), _data()
    frozen = model.get_layer("embedding")
    frozen.trainable = False
    was = [v.numpy() for v in frozen.variables]
    head = model.get_layer("head").variables[0].numpy()
    _compile(model).fit(pixels, labels, verbose=0)
    for before, now in zip(was, frozen.variables):
        np.testing.assert_array_equal(before, now.numpy())
    assert (head != model.get_layer("head").variables[0].numpy()).any()


def test_mixed_precision_by_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _create()
    finally:
        keras.config.set_dtype_policy("float32")
    pixels, labels = _data()
    _compile(model).fit(pixels, labels, verbose=0)
    assert model.compute_dtype == "bfloat16"
    assert model.predict(pixels, verbose=0).dtype == np.float32


def test_keras_export_after_fit(tmp_path):
    model, (pixels, labels) = _compile(_create()), _data()
    model.fit(pixels, labels, verbose=0)
    model.export(tmp_path / "out", verbose=False)
    artifact = tf.saved_model.load(str(tmp_path / "out"))
    served = artifact.serve(tf.constant(pixels))
    np.testing.assert_allclose(served, model.predict(pixels, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: vit_tf.create("ViT-B/17x", num_classes=1), "ViT-B/17x"),
        (lambda: _create(dropuot=0.1), "dropuot: no setting.*did you mean dropout"),
        (lambda: _create(dropout=2), "dropout: "),
        (lambda: vit_tf.create("ViT-B/16", num_classes=1, image_size=100), "96, 112"),
        (lambda: vit_tf.load("nowhere"), "nowhere: no such file"),
    ],
)
def test_mistakes_are_one_line(call, said):
    with pytest.raises(vit_tf.UserError, match=said) as refusal:
        call()
    assert "\n" not in str(refusal.value) and "--" not in str(refusal.value)


# A loaded model.


def test_a_run_predicts_by_names_whatever_an_image_comes_as(evaluated, tmp_path):
    model = vit_tf.load(evaluated)
    assert (model.image_size, model.class_names) == (16, tuple("0123456789"))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    picture, path = Image.fromarray(pixels), tmp_path / "a.png"
    picture.save(path)
    kinds = [pixels, picture, path, str(path), path.read_bytes()]
    answers = [model.predict(kind, top=3) for kind in kinds]
    answers.append(model.predict(model.preprocess(pixels), top=3))
    assert all(answer == answers[0] for answer in answers)
    ((first, *_),) = answers[0]
    assert first[0] in model.class_names and 0 < first[1] <= 1
    both = model.predict([pixels, path], top=1)
    assert [row[0][0] for row in both] == [first[0]] * 2


def test_features_attention_and_where_it_looks(evaluated):
    model = vit_tf.load(evaluated)
    images = [np.full((16, 16, 3), level, np.uint8) for level in (0, 255)]
    features = model.features(images)
    arrays = npz_weights.released(model.keras_model)
    logits = features @ arrays["head/kernel"] + arrays["head/bias"]
    np.testing.assert_allclose(logits, model.logits(images), atol=1e-5)
    assert model.features(images, layer="block_0").shape == (2, 5, 32)
    (weights,) = model.attention(images)
    assert weights.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert model.attention_map(images).shape == (2, 2, 2)
    with pytest.raises(vit_tf.UserError, match="layer=blokc_0: .*did you mean block_0"):
        model.features(images, layer="blokc_0")


def test_a_fitted_model_goes_out_and_comes_back(tmp_path):
    model, (pixels, labels) = _compile(_create()), _data()
    model.fit(pixels, labels, verbose=0)
    np.savez(tmp_path / "mine.npz", **npz_weights.released(model))
    loaded = vit_tf.load(tmp_path / "mine.npz")
    want = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(loaded.logits(pixels), want, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.full((1, 16, 16, 3), 255.0), r"floats from 0 to 255; need \[-1, 1\]"),
        ([], "none given"),
        (np.zeros((4, 4)), r"an array \(4, 4\) of float64"),
        ([np.zeros((4, 4, 4), np.uint8)], "need .height, width, 3. of uint8"),
        ("nowhere.png", "nowhere.png: No such file"),
        ([b"no image"], r"images\[0\]: not a JPEG"),
        ([3], "a int: need a path"),
    ],
)
def test_images_that_are_none_are_named(evaluated, images, said):
    with pytest.raises(vit_tf.UserError, match=said):
        vit_tf.load(evaluated).predict(images)


@pytest.mark.parametrize("top", [0, -1])
def test_no_answer_at_all_is_refused(evaluated, top):
    with pytest.raises(vit_tf.UserError, match=f"top={top}: need 1 or more"):
        vit_tf.load(evaluated).predict(np.zeros((16, 16, 3), np.uint8), top=top)


def test_many_images_are_those_one_by_one(evaluated):
    model, rng = vit_tf.load(evaluated), np.random.default_rng(0)
    images = list(rng.integers(0, 256, (70, 16, 16, 3), np.uint8))
    alone = np.concatenate([model.logits(image) for image in images])
    np.testing.assert_allclose(model.logits(images), alone, atol=1e-5)
    assert model.features(np.stack(images)).shape == (70, 32)


def test_train_and_evaluate(tmp_path, data_dir):
    cfg = tiny.make(train__length=4)
    result = vit_tf.train(cfg, tmp_path / "run", data_dir=data_dir)
    report = vit_tf.evaluate(tmp_path / "run", ["digits"], data_dir=data_dir)
    (metric,) = report["metrics"]
    own = next(m for m in result["metrics"] if m["name"] == "accuracy")
    assert (metric["value"], metric["count"]) == (own["value"], own["count"])


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(api).attempted > 2
    assert doctest.testmod(api).failed == 0
