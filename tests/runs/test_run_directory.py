"""A run's folder survives kills: whole files, rows without torn lines."""

import json

import pytest

from vit_tf import config, config_values, errors
from vit_tf.runs import run_directory


def test_a_torn_last_row_is_left_out(tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for cut in range(len(text) + 1):
        (tmp_path / "metrics.jsonl").write_text(text[:cut])
        found = run_directory.read_rows(str(tmp_path))
        assert found == rows[: len(found)]
    assert found == rows


def test_the_best_step_is_the_highest_or_the_lowest_loss(tmp_path):
    rows = [
        {"step": step, "split": "test", "name": name, "value": value}
        for step, accuracy, loss in ((2, 0.5, 1.0), (4, 0.9, 3.0), (6, 0.9, 2.0))
        for name, value in (("accuracy", accuracy), ("loss", loss))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text)

    def best(metric, among=(2, 4, 6)):
        return run_directory.best_step(str(tmp_path), metric, list(among))

    assert best("test/accuracy") == 4, "the earlier of equals"
    assert best("test/accuracy", (2, 6)) == 6
    assert best("test/loss") == 2
    assert best("validation/loss") is None


def test_a_run_that_does_not_write_leaves_the_folder_alone(tmp_path):
    with run_directory.RunDirectory(
        str(tmp_path), config.Config(), writes=False
    ) as run:
        run.begin(0, data=DATA)
        run.write({"step": 1, "loss": 1.0})
        run.finish({})
    assert not list(tmp_path.iterdir())


DATA = {"dataset": "digits 1.0.0", "training_examples": 7}


def test_what_comes_after_the_checkpoint_is_dropped(tmp_path):
    """Also the evaluation of its step, which may have been cut off half-way."""
    with run_directory.RunDirectory(str(tmp_path), config.Config()) as run:
        run.begin(0, data=DATA)
        for step in (1, 2, 3):
            run.write({"step": step, "loss": 1.0})
            run.write({"step": step, "split": "test", "name": "loss", "value": 1.0})
        run.begin(2, data=DATA)
        rows = run_directory.read_rows(str(tmp_path))
        assert [(r["step"], "split" in r) for r in rows] == [
            (1, False),
            (1, True),
            (2, False),
        ]
        run.begin(0, data=DATA)
        assert run_directory.read_rows(str(tmp_path)) == []


def test_a_folder_is_claimed_when_the_run_begins(tmp_path):
    cfg, other = config.Config(), config.Config()
    other.optim.lr, other.train.seed = 0.5, 3
    for early in (cfg, other):  # refused before they began, say
        run_directory.RunDirectory(str(tmp_path), early).close()
    with run_directory.RunDirectory(str(tmp_path), cfg) as run:
        run.begin(0, data=DATA)
        assert config_values.from_json((tmp_path / "config.json").read_text()) == cfg
        assert run.result() is None
        run.finish({"steps": 3})
        assert run.result() == {"steps": 3}
    with pytest.raises(errors.UserError) as caught:
        run_directory.RunDirectory(str(tmp_path), other)
    assert "optim.lr: 0.001 against 0.5; train.seed: 0 against 3" in str(caught.value)


def test_what_killed_processes_left_unfinished_is_removed(tmp_path):
    own = "0123456789abcdef" * 2
    left = [f"config.json.{own}.unfinished", "metrics.jsonl.unfinished"]
    others = [f"start.json.{own}.unfinished", "config.json.mine.unfinished"]
    for name in left + others:
        (tmp_path / name).write_text("{")
    with run_directory.RunDirectory(str(tmp_path), config.Config()) as run:
        assert run_directory.read_rows(str(tmp_path)) == [] and run.result() is None
        run.begin(0, data=DATA)
    found = {path.name for path in tmp_path.iterdir()}
    assert not found & set(left) and found >= set(others)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(errors.UserError, match=r"config\.json cannot be read"):
        run_directory.RunDirectory(str(tmp_path), config.Config())


def test_other_data_are_refused(tmp_path):
    with run_directory.RunDirectory(str(tmp_path), config.Config()) as run:
        run.begin(0, data=DATA)
        with pytest.raises(errors.UserError, match="training_examples 7 against 8"):
            run.begin(5, data=DATA | {"training_examples": 8})


def test_curves_hold_each_step_once(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    with run_directory.RunDirectory(str(tmp_path), config.Config()) as run:
        run.begin(0, data=DATA)
        for step in (1, 2, 3):
            run.write({"step": step, "loss": 0.5})
        run.begin(2, data=DATA)
        run.write({"step": 3, "loss": 0.25})
        run.write({"step": 3, "split": "test", "name": "accuracy", "value": 0.75})
    curves = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [e.step for e in curves.Tensors("train/loss")] == [1, 2, 3]
    assert [e.step for e in curves.Tensors("test/accuracy")] == [3]
