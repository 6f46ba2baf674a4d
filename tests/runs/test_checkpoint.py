"""Checkpoints are whole or not there, in every window in which a kill can fall."""

import shutil
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import tiny
from vit_tf import errors
from vit_tf.models import build
from vit_tf.runs import checkpoint, stored_weights
from vit_tf.training import optimizers


def _keeper(folder, *, keep=2, value=0.0, depth=1, **rules):
    cfg = tiny.make(model__depth=depth, optim__polyak=0.9)
    keras.utils.set_random_seed(0)
    model = build.build(cfg.model, num_classes=10, image_size=16)
    optimizer = optimizers.build(
        cfg.optim, total_steps=10, variables=model.trainable_variables
    )
    for variable in [*model.trainable_variables, *optimizer.averages]:
        variable.assign(tf.fill(variable.shape, value))
    return model, checkpoint.CheckpointManager(
        str(folder), model=model, optimizer=optimizer, keep=keep, **rules
    )


def _save(keeper, step):
    keeper.save(step)
    keeper.wait()


def _values(model):
    return {float(v.numpy().max()) for v in model.trainable_variables}


def test_save_and_restore_in_another_process_image(tmp_path):
    _, keeper = _keeper(tmp_path, value=3.0)
    _save(keeper, 7)
    model, again = _keeper(tmp_path, value=0.0)
    assert again.restore() == 7
    assert _values(model) == {3.0}


def test_the_newest_few_stay(tmp_path):
    _, keeper = _keeper(tmp_path, keep=2)
    for step in (1, 2, 3, 10):
        _save(keeper, step)
    assert keeper.steps() == [3, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_00000003",
        "step_00000010",
    ]


def test_every_kth_and_the_best_stay_with_the_newest(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: 0.1, 6: 0.95}

    def best(steps):
        return max(steps, key=scores.get)

    _, keeper = _keeper(tmp_path, keep=1, every=4, best=best)
    for step in range(1, 6):
        _save(keeper, step)
    assert keeper.steps() == [2, 4, 5]
    _save(keeper, 6)
    assert keeper.steps() == [4, 6], "2 is not the best any more"


def test_processes_that_do_not_write_leave_checkpoints_alone(tmp_path):
    _, keeper = _keeper(tmp_path, value=3.0)
    _save(keeper, 5)
    unfinished = tmp_path / "step_00000009.unfinished"
    unfinished.mkdir()
    model, reader = _keeper(tmp_path, value=0.0, writes=False)
    assert reader.restore() == 5 and _values(model) == {3.0}
    _save(reader, 6)
    assert keeper.steps() == [5] and unfinished.exists()


@pytest.mark.parametrize("window", ["writing", "before the mark"])
def test_an_interrupted_write_is_not_a_checkpoint(tmp_path, window):
    _, keeper = _keeper(tmp_path, value=1.0)
    _save(keeper, 5)
    left = tmp_path / "step_00000009"
    shutil.copytree(tmp_path / "step_00000005", left)
    (left / "complete.json").unlink()
    if window == "writing":
        left.rename(tmp_path / "step_00000009.unfinished")
    model, again = _keeper(tmp_path)
    assert again.restore() == 5
    assert _values(model) == {1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000005"], "left-overs"
    _save(again, 9)
    assert again.steps() == [5, 9]


@pytest.mark.parametrize("call", ["write", "rename", "write_whole"])
def test_a_failing_write_keeps_the_one_before(tmp_path, monkeypatch, call):
    _, keeper = _keeper(tmp_path, value=1.0)
    _save(keeper, 5)

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        target = {
            "write": tf.train.Checkpoint,
            "rename": tf.io.gfile,
            "write_whole": checkpoint.filesystem,
        }[call]
        patch.setattr(target, call, full)
        with pytest.raises(errors.UserError) as caught:
            _save(keeper, 6)
    line = str(caught.value)
    assert "checkpoint of step 6" in line and "No space left" in line
    assert "the one of step 5 is whole" in line and "\n" not in line
    model, again = _keeper(tmp_path)
    assert again.restore() == 5
    assert _values(model) == {1.0}


def test_training_goes_on_while_an_exact_checkpoint_is_written(tmp_path, monkeypatch):
    model, keeper = _keeper(tmp_path, value=1.0)
    write, go_on = tf.train.Checkpoint.write, threading.Event()

    def slow(*arguments, **options):
        assert go_on.wait(60)
        return write(*arguments, **options)

    monkeypatch.setattr(tf.train.Checkpoint, "write", slow)
    keeper.save(5)
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones(variable.shape))
    assert checkpoint.saved_steps(str(tmp_path)) == []
    go_on.set()
    keeper.save(6)
    assert keeper.steps() == [5, 6]
    shutil.rmtree(tmp_path / "step_00000006")
    model, again = _keeper(tmp_path)
    assert again.restore() == 5 and _values(model) == {1.0}


def test_a_failure_of_training_waits_for_the_write_and_stays_the_reason(
    tmp_path, monkeypatch
):
    _, keeper = _keeper(tmp_path)

    def full(*_, **__):
        time.sleep(0.2)
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(KeyError, match="training"), keeper.finishing():
        keeper.save(5)
        raise KeyError("training")
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.UserError, match="cannot save"), keeper.finishing():
        keeper.save(5)


def test_another_models_checkpoint_is_refused(tmp_path):
    _, keeper = _keeper(tmp_path, depth=1)
    _save(keeper, 5)
    _, other = _keeper(tmp_path, depth=2)
    with pytest.raises(errors.UserError, match="of another model and optimizer"):
        other.restore()


def test_an_empty_folder_starts_at_zero(tmp_path):
    assert _keeper(tmp_path / "none")[1].restore() == 0


def test_weights_are_written_whole(tmp_path):
    model, _ = _keeper(tmp_path / "c", value=2.0)
    path = tmp_path / "weights.npz"
    stored_weights.save_weights(model, str(path))
    with np.load(path) as arrays:
        assert set(map(float, map(np.max, arrays.values()))) == {2.0}
    with pytest.raises(errors.UserError, match="cannot write"):
        stored_weights.save_weights(model, str(tmp_path / "no" / "weights.npz"))
