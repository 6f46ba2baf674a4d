"""Low precision and steps that are not taken: loss scale, moments, bad numbers."""

import dataclasses

import numpy as np
import pytest

from tests.support import tiny
from vit_tf import errors
from vit_tf.data import (
    failing_records,
    mixture,
    pipeline,
)
from vit_tf.objectives import classification
from vit_tf.runtime import devices
from vit_tf.training import loop, optimizers, setup

tf = tiny.tf

# A step is the same wherever it stands, but for the counters.
PLAIN = {"optim__schedule": "constant", "optim__warmup_steps": 0}
FLOAT16 = {"train__precision": "mixed_float16", **PLAIN}


def _batches(machine, poison):
    """Batches of 16 over the replicas; `poison[step][replica]` marks a share."""
    replicas = machine.strategy.num_replicas_in_sync
    rng = np.random.default_rng(0)

    def elements():
        for marks in poison:
            for mark in marks:
                b = 16 // replicas
                yield {
                    "image": rng.integers(0, 256, (b, 16, 16, 3), np.uint8),
                    "label": rng.integers(0, 10, (b,), np.int32),
                    "poison": np.full((b,), mark),
                }

    made = list(elements())
    stacked = {k: np.stack([e[k] for e in made]) for k in made[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    return iter(
        machine.strategy.distribute_datasets_from_function(lambda context: dataset)
    )


class _Run:
    """Steps on drawn batches, where poisoned losses are multiplied by a factor."""

    def __init__(self, data_dir, machine, factor, **changes):
        cfg = tiny.make(optim__polyak=0.9, **changes)
        self.machine = machine
        prepared = setup.prepare(cfg, machine, data_dir=data_dir)
        clean = prepared.state.objective

        def objective(model, batch, seed):
            losses, logits = clean(model, batch, seed)
            return losses * tf.where(batch["poison"], factor, 1.0), logits

        objective.variables, objective.draw = clean.variables, clean.draw
        self.state = dataclasses.replace(prepared.state, objective=objective)
        self.state.optimizer.start_average()
        self.steps = tiny.steps(self.state, cfg, machine)

    def take(self, poison):
        values = self.steps(_batches(self.machine, poison), tf.constant(len(poison)))
        return {name: value.numpy().tolist() for name, value in values.items()}

    def arrays(self):
        """What a skipped step leaves alone, by variable path."""
        optimizer = self.state.optimizer
        counters = ("iteration", "skipped", "bad_steps", "loss_scale", "_scale")
        kept = [
            v
            for v in (*self.state.model.variables, *optimizer.variables)
            if not v.path.endswith(counters)
        ]
        return {v.path: np.array(v.numpy(), np.float32) for v in kept}


def _assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("replica", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_overflow_on_one_replica_skips_the_step_on_all(data_dir, replica):
    """Keras looks at the first replica's gradients, and breaks the weights."""
    # 1e6 * 2**15 is beyond float16, while the loss itself is float32.
    run = _Run(data_dir, tiny.mirrored(2), 1e6, **FLOAT16)
    run.take([(False, False)])
    before = run.arrays()
    marks = [False, False]
    marks[replica] = True
    values = run.take([marks])
    _assert_same(run.arrays(), before)
    assert np.isfinite(values["loss"][0])
    assert not np.isfinite(values["gradient_norm"][0])
    assert values["skipped_steps"] == [1.0] and values["bad_steps"] == [0.0]
    optimizer = run.state.optimizer
    assert int(optimizer.iterations.numpy()) == 2, "the stream goes on"
    assert float(optimizer.loss_scale.numpy()) == optimizers.FIRST_SCALE / 2
    for copy in tf.nest.flatten(
        run.machine.strategy.experimental_local_results(
            run.state.model.trainable_variables[0].value
        )
    ):
        assert np.isfinite(copy.numpy()).all()
    values = run.take([(False, False)])
    assert np.isfinite(values["gradient_norm"][0])
    assert any((run.arrays()[k] != v).any() for k, v in before.items())


def test_a_skipped_step_leaves_no_trace(data_dir):
    """Also none in Adam's bias correction, which counts updates."""
    changes = {"train__skip_bad_steps": 3, **PLAIN}
    skipping = _Run(data_dir, tiny.one_device(), np.nan, **changes)
    skipping.take([(False,)])
    before = skipping.arrays()
    values = skipping.take([(True,)])
    _assert_same(skipping.arrays(), before)
    assert values["bad_steps"] == [1.0]
    assert int(skipping.state.optimizer.iterations.numpy()) == 2
    assert int(skipping.state.optimizer.updates()) == 2, "the second is to come"


def test_the_loss_scale_grows_and_shrinks(data_dir):
    machine = tiny.one_device()
    cfg = tiny.make(**FLOAT16)
    optimizer = setup.prepare(cfg, machine, data_dir=data_dir).state.optimizer
    fine, inf = tf.constant(1.0), tf.constant(np.inf)
    note = tf.function(optimizer.note)
    for _ in range(optimizers.GROW_AFTER):
        note(fine, fine)
    assert float(optimizer.loss_scale.numpy()) == 2 * optimizers.FIRST_SCALE
    for _ in range(16):
        note(fine, inf)
    assert (
        float(optimizer.loss_scale.numpy()) == 1.0 and int(optimizer.bad.numpy()) == 0
    )
    note(fine, inf)  # no scale is low enough: the gradient is bad itself
    assert (
        float(optimizer.loss_scale.numpy()) == 1.0 and int(optimizer.bad.numpy()) == 1
    )
    note(inf, inf)
    assert int(optimizer.bad.numpy()) == 2 and int(optimizer.skipped.numpy()) == 18


def test_float16_takes_the_steps_of_float32(data_dir):
    marks = [(False,)] * 6
    values = [
        _Run(data_dir, tiny.one_device(), 1.0, **PLAIN, train__precision=p).take(marks)
        for p in ("float32", "mixed_float16")
    ]
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(values[1][name], values[0][name], rtol=2e-2)
    assert values[1]["loss_scale"] == [optimizers.FIRST_SCALE] * 6


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_the_first_moment_in_bfloat16(data_dir, rule):
    """Stored so, computed in float32: the first update is the very same."""
    changes = {"optim__rule": rule, **PLAIN}
    half = {"optim__moment_dtype": "bfloat16", **changes}
    whole = _Run(data_dir, tiny.one_device(), 1.0, **changes)
    rounded = _Run(data_dir, tiny.one_device(), 1.0, **half)
    slots = [v for v in rounded.state.optimizer.variables if v.dtype == "bfloat16"]
    assert len(slots) == len(rounded.state.model.trainable_variables)
    whole.take([(False,)])
    rounded.take([(False,)])
    for path, value in whole.arrays().items():
        ours = rounded.arrays()[path]
        tolerance = 2**-8 if "moment" in path or "trace" in path else 0
        if "second_moment" in path:
            tolerance = 0
        np.testing.assert_allclose(ours, value, rtol=tolerance, err_msg=path)


def test_a_run_with_a_moment_in_bfloat16_ends_as_others(data_dir, tmp_path):
    result = loop.train(
        tiny.make(train__length=4, optim__moment_dtype="bfloat16", **PLAIN),
        str(tmp_path),
        machine=tiny.one_device(),
        data_dir=data_dir,
    )
    assert result["steps"] == 4 and "skipped_steps" not in result


def test_gradients_of_matrices_summed_in_bfloat16(data_dir):
    """They are rounded, twice at most; the loss and all vectors are not.

    By the sum that GPUs use, which packs the tensors of a call into one.
    """
    plain = {"optim__clip_norm": "none", **PLAIN}  # the norm would tell the vectors
    whole = _Run(data_dir, tiny.mirrored(2), 1.0, **plain)
    packing = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    machine = devices.Runtime(packing, False, "2 virtual CPU devices")
    short = _Run(data_dir, machine, 1.0, optim__sum_dtype="bfloat16", **plain)
    for run in (whole, short):  # a head of zeros gives the others no gradient
        (head,) = [v for v in run.state.model.weights if v.path.endswith("d/kernel")]
        head.assign(np.random.default_rng(0).normal(0, 0.1, head.shape))
    losses = [run.take([(False, False)])["loss"] for run in (whole, short)]
    assert losses[0] == losses[1]
    changed = 0
    for path, value in whole.arrays().items():
        if "first_moment" not in path:
            continue
        ours = short.arrays()[path]
        if value.ndim < 2:
            np.testing.assert_array_equal(ours, value, err_msg=path)
            continue
        # Of two addends, which may cancel: by the size of the largest.
        size = np.abs(value).max()
        np.testing.assert_allclose(ours, value, atol=2**-6 * size, err_msg=path)
        changed += (ours != value).any()
    assert changed > 5


# The watch, through the loop. Row 17 is in every epoch of four steps once.

EPOCHS = {"data__split": "train[:64]", "train__length": 12, **PLAIN}


@pytest.fixture
def poisoned(monkeypatch):
    clean = classification.Classification.__call__

    def call(self, model, batch, seed=None, *, training=True):
        losses, logits = clean(self, model, batch, seed, training=training)
        bad = tf.equal(batch["index"], 17) & training
        return tf.where(bad, np.nan, losses), logits

    monkeypatch.setattr(classification.Classification, "__call__", call)


def _train(tmp_path, data_dir, **changes):
    cfg = tiny.make(**EPOCHS, **changes)
    machine = tiny.one_device()
    return loop.train(cfg, str(tmp_path), machine=machine, data_dir=data_dir)


def _indices(cfg, step, data_dir):
    source = mixture.open_all(cfg.data.name, data_dir=data_dir)
    (rows,) = failing_records.batch_indices(
        source, cfg.data, seed=cfg.train.seed, step=step - 1
    ).values()
    return rows


def _step_of(line):
    return int(line.split("step ")[1].split(":")[0])


def test_a_non_finite_loss_names_step_data_and_checkpoint(tmp_path, data_dir, poisoned):
    with pytest.raises(errors.UserError) as caught:
        _train(tmp_path, data_dir, train__checkpoint_every_steps=1)
    line = str(caught.value)
    bad = _step_of(line)
    assert 1 <= bad <= 4 and "loss nan" in line and "\n" not in line
    assert "data indices digits " in line
    said = line.split("data indices digits ")[1].split(";")[0]
    assert "17" in said.split(", ")
    last = f"the checkpoint of step {bad - 1}" if bad > 1 else "no checkpoint"
    assert last in line


def test_indices_are_those_of_the_stream(data_dir):
    cfg = tiny.make()
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    batches = iter(pipeline.train_stream(sources, cfg.data, seed=0))
    for step in range(3):
        (found,) = failing_records.batch_indices(
            sources, cfg.data, seed=0, step=step
        ).values()
        assert found == next(batches)["index"].numpy().tolist()


def test_bad_steps_are_skipped_up_to_a_number_and_counted(
    tmp_path, data_dir, poisoned, capsys
):
    result = _train(tmp_path / "3", data_dir, train__skip_bad_steps=3)
    assert result["bad_steps"] == result["skipped_steps"] == 3
    rows = [r for r in tiny.rows(tmp_path / "3") if "learning_rate" in r]
    assert [r["bad_steps"] for r in rows][3::4] == [1, 2, 3]
    assert sum("loss" not in r for r in rows) == 3, "NaN is no JSON"
    assert capsys.readouterr().err.count("skipped; data indices digits") == 3
    with pytest.raises(errors.UserError, match="bad step number 3") as caught:
        _train(tmp_path / "2", data_dir, train__skip_bad_steps=2)
    assert 9 <= _step_of(str(caught.value)) <= 12


def test_out_of_memory_names_the_knobs(tmp_path, data_dir, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(loop.step, "build", lambda *_, **__: full)
    with pytest.raises(errors.UserError) as caught:
        _train(tmp_path, data_dir)
    line = str(caught.value)
    for knob in ("train.accumulation=2", "model.remat=true", "data.batch_size"):
        assert knob in line
    assert "\n" not in line
