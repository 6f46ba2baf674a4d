"""Masked patches: what is drawn, what is learned from, and that runs keep promises."""

import dataclasses
import math
import shutil

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.support import closeness, tiny
from vit_tf import config, errors
from vit_tf.data import (
    batches,
    mixture,
)
from vit_tf.inspection import masked_patch_figures
from vit_tf.models import build
from vit_tf.objectives import masked_patches, patch_colors
from vit_tf.objectives import objective as choice
from vit_tf.runs import loading, stored_weights
from vit_tf.runtime import devices
from vit_tf.studies import training
from vit_tf.training import optimizers, setup, step, train_state

COLORS, PIXELS = ("mean_color", "shrunk_colors"), "pixels"


def _make(**changes):
    return tiny.make(objective__task="masked_patch", **changes)


def _pair(cfg, *, learned=True):
    """A model and its objective; `learned`: the head is not of zeros."""
    devices.seed(0)
    model = build.build(
        cfg.model,
        num_classes=0,
        image_size=cfg.data.image_size,
        dtype=str(cfg.train.precision),
    )
    objective = choice.build(
        cfg.objective, model=model, num_classes=10, measures=cfg.evals.measures
    )
    if learned:
        kernel = objective.head.kernel
        noise = np.random.default_rng(0).normal(size=kernel.shape)
        kernel.assign(0.1 * noise)
    return model, objective


def _state(cfg, model, objective, *, total_steps):
    variables = [*model.trainable_variables, *objective.variables]
    optimizer = optimizers.build(
        cfg.optim, total_steps=total_steps, variables=variables
    )
    return train_state.TrainState(model, objective, optimizer)


def _drawn(objective, number):
    """A training batch with what a step draws for it."""
    batch = {"image": tf.constant(_images(number))}
    seed, first = tf.constant([1, 2]), tf.constant(0)
    return objective.draw(batch, seed, first=first, total=number)


def _images(number, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, size, size, 3), np.uint8)


def _noise(number, patches, seed=0):
    return tf.random.stateless_uniform((number, 3, patches), [seed, 7])


# What is drawn.


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    patches=st.integers(2, 60), share=st.floats(0.01, 1), seed=st.integers(0, 999)
)
def test_exactly_so_many_patches_are_corrupted(patches, share, seed):
    count = max(1, round(share * patches))
    plan = masked_patches.corruption(_noise(5, patches, seed), count)
    corrupted = plan.places.numpy() < count
    assert (corrupted.sum(axis=1) == count).all()
    for row, chosen in zip(plan.positions.numpy(), corrupted):
        assert sorted(row) == np.flatnonzero(chosen).tolist()
    masked = plan.masked.numpy()
    replaced = plan.sources.numpy() != np.arange(patches)
    assert not ((masked | replaced) & ~corrupted).any()
    assert not (masked & replaced).any()
    assert 0 <= plan.sources.numpy().min() <= plan.sources.numpy().max() < patches


def test_shares_and_places_over_many_draws():
    number, patches, count = 4000, 40, 6  # 15 %
    plan = masked_patches.corruption(_noise(number, patches), count)
    corrupted, masked = plan.places.numpy() < count, plan.masked.numpy()
    replaced = plan.sources.numpy() != np.arange(patches)
    total = number * count

    def close(share, expected, draws):  # five standard deviations
        spread = 5 * math.sqrt(expected * (1 - expected) / draws)
        np.testing.assert_allclose(share, expected, atol=spread)

    close(masked.sum() / total, 0.8, total)
    close(replaced.sum() / total, 0.1, total)
    close(corrupted.mean(axis=0), count / patches, number)  # every place alike
    close(masked.mean(axis=0), 0.8 * count / patches, number)
    # Another patch: each of the others as often, from wherever one looks.
    offsets = (plan.sources.numpy() - np.arange(patches))[replaced] % patches
    close(np.bincount(offsets)[1:] / replaced.sum(), 1 / (patches - 1), replaced.sum())


def test_draws_differ_by_seed_step_and_place_and_repeat():
    seen = []
    for seed, number, first in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 4)):
        key = step.draw_seed(seed, tf.constant(number))
        share = {"first": tf.constant(first), "count": 4, "total": 8}
        noise = masked_patches.drawn(key, 16, **share).numpy()
        np.testing.assert_array_equal(noise, masked_patches.drawn(key, 16, **share))
        assert not any(np.isin(noise, other).any() for other in seen)
        seen.append(noise)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_draw_what_one_device_draws(replicas):
    _, objective = _pair(_make())
    batch = {"image": tf.constant(_images(8))}
    whole = objective.draw(batch, tf.constant([3, 4]), first=tf.constant(0), total=8)
    count = 8 // replicas
    shares = [
        objective.draw(
            {"image": batch["image"][first : first + count]},
            tf.constant([3, 4]),
            first=tf.constant(first),
            total=8,
        )
        for first in range(0, 8, count)
    ]
    noise = np.concatenate([share[masked_patches.NOISE] for share in shares])
    np.testing.assert_array_equal(noise, whole[masked_patches.NOISE])


def test_an_example_has_its_own_fixed_draws():
    index = tf.constant([5, 0, 5, -1], tf.int64)
    noise = masked_patches.fixed(index, 16).numpy()
    np.testing.assert_array_equal(noise[0], noise[2])
    assert (noise[0] != noise[1]).all()
    np.testing.assert_array_equal(noise[1], masked_patches.fixed(index[1:2], 16)[0])


# What is predicted, and learned from.


def test_targets_are_those_of_the_corrupted_patches():
    pictures = _images(3)
    plan_noise = _noise(3, 4)
    for target in (*COLORS, PIXELS):
        measures = "pixel_error" if target == PIXELS else "accuracy"
        cfg = _make(objective__target=target, evals__measures=measures)
        model, objective = _pair(cfg)
        found = objective.predict(model, {"image": tf.constant(pictures)}, plan_noise)
        assert found.targets.shape[:2] == (3, 2)
        for i, positions in enumerate(found.plan.positions.numpy()):
            for j, place in enumerate(positions):
                row, column = divmod(place, 2)
                cut = pictures[i, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                want = _target(cut, target)
                np.testing.assert_allclose(found.targets[i, j], want, atol=1e-6)


def _target(cut, target):
    """What is to be told of one patch (8, 8, 3), in NumPy."""
    if target == PIXELS:
        return cut.reshape(-1) / 127.5 - 1
    side = {"mean_color": 1, "shrunk_colors": 4}[target]
    cells = cut.reshape(side, 8 // side, side, 8 // side, 3).mean(axis=(1, 3))
    bins = np.minimum(np.floor(cells / 255 * 8), 7)
    return (bins @ [64, 8, 1]).reshape(-1)


def test_evaluations_pixels_give_the_same_targets():
    pictures = tf.constant(_images(2))
    scaled = (tf.cast(pictures, tf.float32) - 127.5) / 127.5
    for target in COLORS:
        model, objective = _pair(_make(objective__target=target))
        ours, theirs = (
            objective.predict(model, {"image": images}, _noise(2, 4)).targets
            for images in (pictures, scaled)
        )
        np.testing.assert_array_equal(ours, theirs)


class _Through:
    """Stands in for a model whose encoder gives the tokens that it is made with."""

    compute_dtype = "float32"

    def __init__(self, tokens):
        self.tokens = tokens

    def embed_patches(self, images, **_):
        return tf.zeros_like(self.tokens)

    def place(self, patches, **_):
        return patches

    def encode(self, patches, **_):
        return self.tokens


def test_gradients_come_from_corrupted_patches_only():
    cfg = _make(model__variant="ViT-mu/4")
    _, objective = _pair(cfg)
    tokens = tf.random.stateless_normal((3, 16, 32), [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        losses, found = objective(_Through(tokens), _drawn(objective, 3), [1, 2])
    moved = tf.reduce_any(tape.gradient(losses, tokens) != 0, axis=-1).numpy()
    np.testing.assert_array_equal(moved, found.plan.places.numpy() < 8)


def test_a_masked_patch_is_not_seen():
    """Its pixels change the target, and no output."""
    model, objective = _pair(_make(model__variant="ViT-mu/4"))
    noise = _noise(1, 16)
    plan = masked_patches.corruption(noise, 8)
    place = np.flatnonzero(plan.masked.numpy()[0] & ~_is_a_source(plan))[0]
    row, column = divmod(int(place), 4)
    ours, theirs = _images(1), _images(1)
    theirs[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] ^= 255
    found = [
        objective.predict(model, {"image": tf.constant(images)}, noise)
        for images in (ours, theirs)
    ]
    np.testing.assert_array_equal(found[0].outputs, found[1].outputs)
    assert (found[0].targets.numpy() != found[1].targets.numpy()).sum() == 1


def _is_a_source(plan):
    """Patches whose embedding stands somewhere."""
    visible = plan.sources.numpy()[0][~plan.masked.numpy()[0]]
    return np.isin(np.arange(plan.masked.shape[1]), visible)


def test_embeddings_are_exchanged_before_positions_are_added(monkeypatch):
    model, objective = _pair(_make(model__variant="ViT-mu/4"))
    images, noise = tf.constant(_images(2), tf.float32) / 255, _noise(2, 16)
    placed, place = [], model.place

    def recorded(patches, **how):
        placed.append((patches, place(patches, **how)))
        return placed[-1][1]

    monkeypatch.setattr(model, "place", recorded)
    plan = objective.predict(model, {"image": images}, noise).plan
    embedded = model.embed_patches(images).numpy()
    want = np.take_along_axis(embedded, plan.sources.numpy()[..., None], axis=1)
    want[plan.masked.numpy()] = objective.mask.numpy()
    ((patches, tokens),) = placed
    np.testing.assert_array_equal(patches, want)
    table = model.positions[0].weights[0].numpy()  # of the class token and the patches
    np.testing.assert_allclose(tokens[:, 1:], want + table[:, 1:], atol=1e-6)


@pytest.mark.parametrize("target", COLORS)
def test_the_first_loss_is_that_of_guessing(target):
    cfg = _make(objective__target=target)
    model, objective = _pair(cfg, learned=False)
    losses, _ = objective(model, _drawn(objective, 4), [3, 4])
    np.testing.assert_allclose(losses, math.log(512), rtol=1e-5)


def test_only_the_heads_kernel_decays():
    _, objective = _pair(_make())
    decayed = [
        v.path
        for v in objective.variables
        if optimizers.decays(v.path, config.Decay.KERNELS)
    ]
    assert decayed == ["masked_patch/head/kernel"]
    assert len(objective.variables) == 3


_HARD = {"model__remat": True, "model__dropout": 0.1, "train__accumulation": 2}


@pytest.mark.parametrize(
    ("changes", "jit_compile"),
    [
        (_HARD, False),
        pytest.param(
            {"model__variant": "Axial-ViT-mu/4"}, False, marks=pytest.mark.slow
        ),
        pytest.param(
            {"model__variant": "R+ViT-mu/16", "data__image_size": 64},
            False,
            marks=pytest.mark.slow,
        ),
        pytest.param(_HARD, True, marks=pytest.mark.slow),
    ],
    ids=["remat", "axial", "hybrid", "compiled"],
)
def test_a_step_in_bfloat16_moves_every_variable(changes, jit_compile):
    cfg = _make(
        train__precision="mixed_bfloat16",
        data__batch_size=4,
        optim__warmup_steps=0,
        **{"model__variant": "ViT-mu/4"} | changes,
    )
    model, objective = _pair(cfg)
    state = _state(cfg, model, objective, total_steps=9)
    trained = state.variables
    machine = dataclasses.replace(tiny.one_device(), jit_compile=jit_compile)
    steps = tiny.steps(state, cfg, machine)
    before = [v.numpy() for v in trained]
    batch = batches.noise(cfg.data, num_classes=10)
    found = steps(iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1))
    assert np.isfinite(found["loss"]).all() and found["gradient_norm"][0] > 0
    still = [v.path for v, old in zip(trained, before) if (v.numpy() == old).all()]
    # A softmax does not see what is added to all of its scores.
    assert [path for path in still if not path.endswith("key/bias")] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [*COLORS, PIXELS])
def test_xla_computes_the_same_losses(target):
    measures = "pixel_error" if target == PIXELS else "accuracy"
    model, objective = _pair(_make(objective__target=target, evals__measures=measures))
    batch = {"image": tf.constant(_images(3))}
    noise = _noise(3, 4)  # made outside: XLA draws other numbers for a seed

    def losses():
        return objective.losses(objective.predict(model, batch, noise))

    compiled = tf.function(losses, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(), losses(), rtol=1e-5)


@pytest.mark.slow
def test_xla_evaluates_the_same_patches():
    index = tf.range(5, dtype=tf.int64)
    compiled = tf.function(masked_patches.fixed, jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(index, 16), masked_patches.fixed(index, 16))


def test_images_of_one_colour_each_are_solved():
    """A masked patch's colour is that of the others: to be copied from them."""
    cfg = _make(model__variant="ViT-mu/4", optim__lr=1e-2, data__batch_size=8)
    model, objective = _pair(cfg, learned=False)
    state = _state(cfg, model, objective, total_steps=150)
    steps = tiny.steps(state, cfg, tiny.one_device())
    colors = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3), np.uint8)
    pictures = np.broadcast_to(colors, (8, 16, 16, 3))
    assert len(np.unique(patch_colors.mean_colors(tf.constant(pictures), 4))) == 8
    batch = {"image": pictures, "label": np.zeros(8, np.int32)}
    stream = iter(tf.data.Dataset.from_tensors(batch).repeat())
    losses = steps(stream, tf.constant(150))["loss"].numpy()
    assert losses[0] == pytest.approx(math.log(512), rel=1e-4)
    assert losses[-10:].max() < 0.05


# Runs.


def test_a_resumed_run_is_the_same_to_the_last_bit(masked, data_dir, tmp_path):
    shutil.copytree(masked, tmp_path / "run")
    cut = tmp_path / "run"
    for name in ("result.json", "weights.npz", "objective.npz", "masked_patches.png"):
        (cut / name).unlink()
    shutil.rmtree(cut / "checkpoints" / "step_00000008")
    training.train(
        tiny.make(**tiny.MASKED), str(cut), machine=tiny.one_device(), data_dir=data_dir
    )
    ours, theirs = tiny.newest_state(cut), tiny.newest_state(masked)
    assert ours.keys() == theirs.keys()
    assert sum(name.startswith("objective/") for name in ours) == 3
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert tiny.rows(cut) == tiny.rows(masked)
    for name in ("weights.npz", "objective.npz", "masked_patches.png"):
        assert (cut / name).read_bytes() == (masked / name).read_bytes()
    again, once = (
        tiny.shown(run / masked_patch_figures.FOLDER) for run in (cut, masked)
    )
    assert again == once, "no picture twice"


def test_what_the_objective_owns_is_averaged_too(masked):
    state = tiny.newest_state(masked)
    with np.load(masked / stored_weights.OBJECTIVE) as owned:
        assert len(owned) == 3
        for path, array in owned.items():
            name = path.replace("/", "_")
            (average,) = [n for n in state if name in n and "polyak" in n]
            np.testing.assert_array_equal(array, state[average])
            (last,) = [n for n in state if n.startswith(f"objective/{name}/")]
            assert (array != state[last]).any()


def test_its_evaluation_is_of_fixed_patches_whatever_the_batch(masked, data_dir):
    cfg = tiny.make(**tiny.MASKED)
    metrics = tiny.result(masked)["metrics"]
    assert [(m["name"], m["count"]) for m in metrics] == [
        ("accuracy", 800),  # 2 of the 4 patches of 400 images
        ("loss", 800),
    ]
    found = []
    for machine, size in ((tiny.one_device(), 7), (tiny.mirrored(2), 64)):
        cfg.evals.batch_size = size
        prepared = setup.prepare(cfg, machine, data_dir=data_dir)
        state = prepared.state
        stored_weights.load_weights(state.model, str(masked / "weights.npz"))
        stored_weights.load_objective(state.objective.variables, str(masked))
        found.append(prepared.evaluate())
    for again in found:
        for ours, theirs in zip(again, metrics, strict=True):
            assert (ours.name, ours.count) == (theirs["name"], theirs["count"])
            assert ours.value == pytest.approx(theirs["value"], rel=1e-5)


def test_replicas_do_not_change_the_weights(tmp_path, data_dir):
    """What is corrupted follows an example's place in the batch, not the replica."""
    changes = {
        "train__length": 4,
        "model__dropout": 0,
        "optim__clip_norm": 0.1,
        "evals__every_steps": "none",
        "evals__splits": "",  # nothing to evaluate, nothing to draw
        "evals__draw_every_steps": "none",
    }
    cfg = tiny.make(**tiny.MASKED | changes)
    states = []
    for machine in (tiny.one_device(), tiny.mirrored(2)):
        folder = tmp_path / str(len(states))
        training.train(cfg, str(folder), machine=machine, data_dir=data_dir)
        states.append(tiny.newest_state(folder))
    closeness.assert_close_state(*states)
    owned = [name for name in states[0] if name.startswith("objective/")]
    assert len(owned) == 3
    for name in owned:
        np.testing.assert_allclose(
            states[0][name], states[1][name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_transfer_leaves_behind_what_the_objective_owns_and_says_so(masked, data_dir):
    cfg = tiny.make(start_from=str(masked))
    prepared = setup.prepare(cfg, tiny.one_device(), data_dir=data_dir)
    told = stored_weights.start_from(
        prepared.state.model, str(masked), class_names=prepared.class_names
    )[-1]
    assert told.startswith("left behind")
    for what in ("mask_embedding (32,)", "head/kernel (32, 512)", "head/bias (512,)"):
        assert f"masked_patch/{what}" in told
    with np.load(masked / "weights.npz") as file:
        for variable in prepared.state.model.variables:
            name = variable.path.removeprefix(f"{prepared.state.model.path}/")
            if not name.startswith("head/"):
                np.testing.assert_array_equal(variable.numpy(), file[name])
    assert prepared.state.model.num_classes == 10


def test_its_weights_are_those_of_a_plain_vit(masked, tmp_path):
    with np.load(masked / "weights.npz") as file:
        assert not any("mask" in name or name.startswith("head") for name in file)
    alone = shutil.copy(masked / "weights.npz", tmp_path / "elsewhere.npz")
    opened = loading.open_model(str(alone))
    assert (opened.num_classes, opened.network.patch_size) == (0, 8)
    assert loading.open_model(str(masked)).class_names == ()
    own = loading.open_model(str(masked))
    assert own.objective.task is config.Task.MASKED_PATCH
    features = own.network(tf.zeros((1, 16, 16, 3)))
    np.testing.assert_array_equal(features, opened.network(tf.zeros((1, 16, 16, 3))))


# What is refused.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model__variant": "R50x1", "data__image_size": 32},
            "R50x1 has no patch embeddings",
        ),
        ({"model__pool": "map"}, "would not learn"),
        ({"model__pre_logits": True}, "would not learn"),
        ({"objective__loss": "sigmoid"}, "has no labels"),
        ({"objective__label_smoothing": 0.1}, "has no labels"),
        ({"objective__corruption": 0.01}, "0 of 4 patches"),
        ({"model__variant": "ViT-mu/16"}, "of 1 patches"),
        ({"evals__measures": "nll"}, "there are: accuracy, loss"),
        ({"objective__target": "pixels"}, "there are: pixel_error, loss"),
        (
            {"model__variant": "ViT-mu/2", "objective__target": "shrunk_colors"},
            "4 x 4 cells; use mean_color",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(changes, said):
    with pytest.raises(errors.UserError, match=said) as refusal:
        _pair(_make(**changes))
    assert "\n" not in str(refusal.value)


def test_mixed_labels_are_refused_and_several_are_not_read(data_dir):
    (source,) = mixture.open_all("digits", data_dir=data_dir).sources
    with pytest.raises(errors.UserError, match="masked patches have none"):
        mixed = _make(data__mixup=0.2)
        choice.check_data(mixed.objective, mixed.data, source)
    plain = _make()
    choice.check_data(plain.objective, plain.data, source)
    assert choice.class_names(plain.objective.task, source) == []


def test_an_objective_of_another_shape_is_refused(masked):
    _, objective = _pair(_make(objective__target="shrunk_colors"))
    with pytest.raises(errors.UserError, match="not what this objective learns"):
        stored_weights.load_objective(objective.variables, str(masked))
