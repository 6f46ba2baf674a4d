"""The model against NumPy, its initial values, its seeds, its ways to run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import reference_vit
from vit_tf import config, errors
from vit_tf.models import build, npz_weights, vit

SHAPES = [
    pytest.param("token", False, id="token"),
    pytest.param("gap", False, id="gap"),
    pytest.param("token", True, id="token+pre_logits"),
    pytest.param("gap", True, id="gap+pre_logits"),
]


def _model(*, classes=5, size=16, dtype=None, **fields):
    model = config.Model(
        **{"variant": "ViT-mu/4", "depth": 2, "num_heads": 4, **fields}
    )
    return build.build(model, num_classes=classes, image_size=size, dtype=dtype)


def _filled(model, seed=0, scale=0.2):
    """No weight stays zero, so that every array takes part."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape) * scale)
    return model


def _images(batch=3, size=16, seed=9):
    return (
        np.random.default_rng(seed)
        .uniform(-1, 1, (batch, size, size, 3))
        .astype("float32")
    )


def _close(got, want, tolerance=1e-5):
    """To `tolerance` of the largest value."""
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * abs(want).max())


# The numbers -------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "pre_logits"), SHAPES)
def test_every_intermediate_equals_the_numpy_reference(pool, pre_logits):
    model = _filled(_model(pool=pool, pre_logits=pre_logits))
    record = {}
    logits = model(_images(), record=record)
    want = reference_vit.forward(npz_weights.released(model), _images())
    assert record.keys() == want.keys()
    for name, value in want.items():
        _close(record[name], value)
    _close(logits, want["logits"])
    # The tolerance means something: the logits differ between the images.
    assert want["logits"].std(axis=0).min() > 1e-3


def test_the_names_of_the_record_are_those_of_the_file():
    record = {}
    _model(pre_logits=True)(_images(), record=record)
    blocks = [name.format(i) for i in (0, 1) for name in (vit.BLOCK, vit.ATTENTION)]
    tops = [vit.PATCHES, vit.POSITIONED, vit.ENCODED, vit.POOLED]
    assert record.keys() == {*blocks, *tops, vit.PRE_LOGITS, vit.LOGITS}
    assert record[vit.ATTENTION.format(1)].shape == (3, 4, 17, 17)


def test_the_steps_compose_to_the_forward_pass():
    model = _filled(_model(dropout=0.3))
    how = {"training": True, "seed": [1, 2]}
    tokens = model.encode(model.embed(_images(), **how), **how)
    assert tokens.shape == (3, 17, 32)
    features = model.pool(tokens)
    assert features.shape == (3, 32)
    got, logits = model.forward(_images(), **how)
    np.testing.assert_array_equal(features, got)
    np.testing.assert_array_equal(logits, model(_images(), **how))


def test_features_are_what_the_last_layer_reads():
    model = _filled(_model(pre_logits=True))
    record = {}
    logits = model(_images(), record=record)
    features, same = model.forward(_images())
    np.testing.assert_array_equal(features, record[vit.PRE_LOGITS])
    np.testing.assert_array_equal(same, logits)


def test_without_classes_the_features_come_out():
    model = _filled(_model(classes=0))
    want = reference_vit.forward(npz_weights.released(model), _images())
    _close(model(_images()), want["pooled"])
    hidden = _filled(_model(classes=0, pre_logits=True))
    want = reference_vit.forward(npz_weights.released(hidden), _images())
    _close(hidden(_images()), want["pre_logits"])
    assert not [w.path for w in hidden.weights if "/head/" in w.path]


# The beginning -----------------------------------------------------------------

# The authors' initialisation, for a model of width D = 32 and MLP M = 128, patch 4: for
# each name the share of the range [-bound, bound] and the deviation of what is drawn.
_XAVIER_D = (6 / 64) ** 0.5
_XAVIER_M = (6 / 160) ** 0.5
_LECUN_48, _LECUN_32 = (1 / 48) ** 0.5, (1 / 32) ** 0.5
_CUT = 2 / 0.87962566  # of the deviation, where lecun_normal is truncated
INITIAL = {  # name: (deviation, bound); None: not bounded
    "embedding/kernel": (_LECUN_48, _LECUN_48 * _CUT),
    "pos_embedding": (0.02, None),
    "query/kernel": (_XAVIER_D / 3**0.5, _XAVIER_D),
    "key/kernel": (_XAVIER_D / 3**0.5, _XAVIER_D),
    "value/kernel": (_XAVIER_D / 3**0.5, _XAVIER_D),
    "out/kernel": (_XAVIER_D / 3**0.5, _XAVIER_D),
    "Dense_0/kernel": (_XAVIER_M / 3**0.5, _XAVIER_M),
    "Dense_1/kernel": (_XAVIER_M / 3**0.5, _XAVIER_M),
    "Dense_0/bias": (1e-6, None),
    "Dense_1/bias": (1e-6, None),
    "pre_logits/kernel": (_LECUN_32, _LECUN_32 * _CUT),
}
CONSTANT = {
    "cls": 0.0,
    "embedding/bias": 0.0,
    "query/bias": 0.0,
    "key/bias": 0.0,
    "value/bias": 0.0,
    "out/bias": 0.0,
    "scale": 1.0,
    "LayerNorm_0/bias": 0.0,
    "LayerNorm_2/bias": 0.0,
    "encoder_norm/bias": 0.0,
    "pre_logits/bias": 0.0,
    "head/kernel": 0.0,
    "head/bias": -6.9,
}


def test_every_weight_starts_as_the_paper_says():
    keras.utils.set_random_seed(0)
    model = _model(depth=3, pre_logits=True, head_bias=-6.9, size=64)
    for name, array in npz_weights.released(model).items():
        (row,) = [row for row in (*INITIAL, *CONSTANT) if name.endswith(row)]
        if row in CONSTANT:
            np.testing.assert_array_equal(array, np.float32(CONSTANT[row]), name)
            continue
        deviation, bound = INITIAL[row]
        error = 5 * deviation / (2 * array.size) ** 0.5
        assert abs(array.std() - deviation) < max(error, 0.02 * deviation), name
        assert abs(array.mean()) < 5 * deviation / array.size**0.5, name
        if bound is None:  # not truncated: one in 1,000 is beyond 3.29 deviations
            assert array.size < 8_000 or abs(array).max() > 3.2 * deviation, name
        else:
            assert 0.9 * bound < abs(array).max() <= bound * (1 + 1e-5), name


def test_initial_values_depend_on_the_seed_alone():
    def drawn(seed, **fields):
        keras.utils.set_random_seed(seed)
        return npz_weights.released(_model(pre_logits=True, **fields))

    first, again, other = drawn(3), drawn(3), drawn(4)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        if any(name.endswith(row) for row in INITIAL):
            assert (array != other[name]).any(), name
    # Dropout draws nothing at the start, and no two arrays share their draws.
    for name, array in drawn(3, dropout=0.5, classes=7).items():
        if not name.startswith("head/"):
            np.testing.assert_array_equal(array, first[name])
    heads = [array.ravel()[0] for array in first.values() if array.std() > 0]
    assert len(set(heads)) == len(heads)


def test_a_new_head_answers_its_bias_and_sends_no_gradient_down():
    model = _model(head_bias=-10.0, pre_logits=True)
    with tf.GradientTape() as tape:
        logits = model(_images())
        loss = tf.reduce_sum(tf.square(logits - tf.one_hot([0, 1, 2], 5)))
    np.testing.assert_array_equal(logits, np.full((3, 5), -10.0, "float32"))
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        at_head = "/head/" in variable.path
        moves = gradient is not None and bool(np.any(gradient))
        assert moves == at_head, variable.path


@pytest.mark.parametrize(("pool", "pre_logits"), SHAPES)
def test_every_parameter_learns_once_the_head_does(pool, pre_logits):
    model = _filled(_model(pool=pool, pre_logits=pre_logits))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(_images())))
    variables = model.trainable_variables
    assert len(variables) == len(model.weights)
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        if variable.path.endswith("key/bias"):
            assert gradient is None, variable.path
        else:
            assert float(tf.reduce_max(tf.abs(gradient))) > 1e-4, variable.path


def test_the_key_bias_cannot_change_anything():
    """Why it gets no gradient: softmax does not see what all scores share."""
    model = _filled(_model())
    before = model(_images()).numpy()
    for variable in model.trainable_variables:
        if variable.path.endswith("key/bias"):
            variable.assign_add(np.full(variable.shape, 0.3, "float32"))
    np.testing.assert_allclose(model(_images()), before, rtol=1e-4, atol=1e-5)


# Ways to run -------------------------------------------------------------------


def test_all_variables_exist_at_once_under_their_own_paths():
    model = _model(pre_logits=True, dropout=0.1)
    before = [v.path for v in model.variables]
    model(_images(), training=True, seed=[1, 2])
    model.build((None, 16, 16, 3))
    assert [v.path for v in model.variables] == before
    assert len(set(before)) == len(before)
    assert all(path.startswith("ViT-mu_4/") for path in before)
    assert [v.path for v in model.trainable_variables] == before


def test_a_graph_of_open_batch_size_fills_the_record():
    model = _filled(_model())
    names = []

    @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32)])
    def run(images):
        record = {}
        model(images, record=record)
        names.extend(record)
        return record[vit.ATTENTION.format(0)], record[vit.LOGITS]

    for batch in (1, 3):
        attention, logits = run(_images(batch))
        assert attention.shape == (batch, 4, 17, 17)
        _close(logits, model(_images(batch)))
    assert vit.ENCODED in names


@pytest.mark.parametrize("jit_compile", [False, True])
def test_bfloat16_stays_close_and_answers_in_float32(jit_compile):
    exact = _filled(_model(), scale=0.1)
    model = _model(dtype="mixed_bfloat16")
    model.set_weights(exact.get_weights())
    assert {w.dtype for w in model.weights} == {"float32"}
    record = {}
    model(_images(), record=record)
    for name in (vit.PATCHES, vit.POSITIONED, vit.BLOCK.format(1), vit.ENCODED):
        assert record[name].dtype == "bfloat16", name
    for name in (vit.ATTENTION.format(0), vit.POOLED, vit.LOGITS):
        assert record[name].dtype == "float32", name
    run = tf.function(model, jit_compile=jit_compile)
    got, want = run(tf.constant(_images())), exact(_images())
    assert got.dtype == "float32"
    _close(got, want, 0.05)
    assert np.abs(got - want).max() > 0  # it did compute in bfloat16


def test_rebuilt_from_its_config_it_has_the_same_shapes():
    model = _model(dropout=0.1, attention_dropout=0.2)
    twin = vit.VisionTransformer.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]


def test_it_is_a_layer_of_a_functional_model():
    model = _filled(_model())
    inputs = keras.Input((16, 16, 3))
    outer = keras.Model(inputs, keras.layers.Softmax()(model(inputs)))
    _close(outer(_images()), tf.nn.softmax(model(_images())))


def test_it_lives_in_a_strategys_scope():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    keras.utils.set_random_seed(5)
    alone = _model(dropout=0.5, classes=0)
    with strategy.scope():
        keras.utils.set_random_seed(5)
        model = _model(dropout=0.5, classes=0)

    @tf.function
    def run(images):
        return strategy.run(
            lambda x: model(x, training=True, seed=tf.constant([1, 2])), args=(images,)
        )

    for output in strategy.experimental_local_results(run(tf.constant(_images()))):
        _close(output, alone(_images(), training=True, seed=[1, 2]))


# Dropout -----------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_seed_decides_all_draws(jit_compile):
    model = _filled(_model(dropout=0.2, attention_dropout=0.2))

    @tf.function(jit_compile=jit_compile)
    def run(images, seed, training=True):
        return model(images, training=training, seed=seed)

    images, seed = tf.constant(_images()), tf.constant([7, -8])
    first = run(images, seed)
    np.testing.assert_array_equal(first, run(images, seed))
    if not jit_compile:  # XLA draws other numbers from the same seed
        _close(first, model(images, training=True, seed=seed))
    assert np.abs(first - run(images, tf.constant([8, -8]))).min() > 0
    assert np.abs(first - run(images, tf.constant([7, -7]))).min() > 0
    _close(run(images, seed, training=False), model(images))


def _masks(monkeypatch, model, seed):
    """All draws of one call, flattened."""
    drawn, uniform = [], keras.random.uniform

    def listen(*args, **kwargs):
        drawn.append(uniform(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(keras.random, "uniform", listen)
    model(_images(), training=True, seed=seed)
    monkeypatch.setattr(keras.random, "uniform", uniform)
    return [np.ravel(draw) for draw in drawn]


def test_every_place_draws_its_own_mask_at_every_step(monkeypatch):
    model = _model(depth=3, dropout=0.1, attention_dropout=0.1)
    # Neighbouring seeds, as a loop would count steps.
    steps = [_masks(monkeypatch, model, [0, step]) for step in range(5)]
    assert [len(draws) for draws in steps] == [1 + 4 * 3] * 5
    starts = {tuple(draw[:8]) for draws in steps for draw in draws}
    assert len(starts) == 5 * 13


def test_each_rate_rules_its_own_places(monkeypatch):
    tokens, hidden = (3, 17, 32), (3, 17, 128)
    draws = _masks(monkeypatch, _model(dropout=0.1), [1, 2])
    block = [np.prod(tokens), np.prod(hidden), np.prod(tokens)]
    assert [draw.size for draw in draws] == [np.prod(tokens), *block, *block]
    draws = _masks(monkeypatch, _model(attention_dropout=0.1), [1, 2])
    assert [draw.size for draw in draws] == [3 * 4 * 17 * 17] * 2


def test_dropout_keeps_the_expected_token():
    model = _filled(_model(dropout=0.25, depth=1))
    tokens = model.embed(_images(1))
    draws = [model.embed(_images(1), training=True, seed=[1, i]) for i in range(400)]
    zeros = np.mean([np.mean(draw == 0) for draw in draws])
    assert zeros == pytest.approx(0.25, abs=0.005)
    mean, spread = np.mean(draws, axis=0), np.abs(tokens).max()
    assert np.abs(mean - tokens).max() < 5 * spread * (0.25 / 0.75 / 400) ** 0.5


def test_the_model_owns_no_random_state():
    model = _model(dropout=0.5, attention_dropout=0.5)
    before = [w.numpy() for w in model.variables]
    model(_images(), training=True, seed=[1, 2])
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert not [v for v in model.variables if "seed" in v.path]


# Refusals ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 20, 16, 3), "float32"), r"\(2, 20, 16, 3\).*\(batch, 16, 16, 3"),
        (np.zeros((2, 16, 16, 1), "float32"), "need .batch, 16, 16, 3"),
        (np.zeros((16, 16, 3), "float32"), "need .batch, 16, 16, 3"),
        (np.zeros((2, 16, 16, 3), "uint8"), "uint8, need floats in .-1, 1"),
    ],
)
def test_wrong_images_are_refused_in_one_line(images, words):
    model = _model()
    for verb in (model, model.embed):
        with pytest.raises(errors.UserError, match=words) as refusal:
            verb(images)
        assert "\n" not in str(refusal.value)


def test_training_with_dropout_needs_a_seed():
    model = _model(dropout=0.1)
    for run in (model, model.embed):
        with pytest.raises(errors.UserError, match="got no seed") as refusal:
            run(_images(), training=True)
        assert "\n" not in str(refusal.value)
    model(_images())
    _model()(_images(), training=True)
