"""VTAB-1k end to end on records of our own in TFDS' format."""

import numpy as np
import pytest

from tests.support import fakes, tiny, warm
from vit_tf import config, errors
from vit_tf.data import vtab_splits
from vit_tf.runs import stored_weights
from vit_tf.studies import runner, training, vtab

TASKS = ("dtd", "camelyon")  # one of two groups, with a validation split of its own
TESTS = 40  # images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Both tasks prepared: a thousand examples to train on and some to report."""
    root = tmp_path_factory.mktemp("vtab")
    for task in TASKS:
        name = f"vtab/{task}"
        drawn = fakes.drawn(name, 8)
        rng = np.random.default_rng(0)
        for example in drawn:  # small, as all thousand of them are decoded
            size = (96, 96) if task == "camelyon" else (12, 14)
            example["image"] = rng.integers(0, 255, (*size, 3), np.uint8)
        fakes.write(
            name,
            root,
            {
                "train": drawn * 100,
                "validation": drawn * 25,
                "test": drawn * (TESTS // 8),
            },
        )
    return str(root)


@pytest.fixture(scope="module")
def start(data_dir, tmp_path_factory):
    """A finished run to start from."""
    workdir = str(tmp_path_factory.mktemp("start") / "run")
    cfg = tiny.make(train__length=1, optim__warmup_steps=0)
    training.train(cfg, workdir, machine=tiny.one_device(), data_dir=data_dir)
    return workdir


def _change(cfg):
    cfg.data.image_size, cfg.data.batch_size = 16, 4
    cfg.train.length, cfg.optim.warmup_steps = 2, 0
    cfg.train.precision = config.Precision.FLOAT32


def _command(start, data, workdir, *more):
    return warm.run(
        "-m",
        "tools.vtab",
        f"--start_from={start}",
        f"--data_dir={data}",
        f"--workdir={workdir}",
        *more,
    )


def test_tasks_are_done_once_and_told_with_their_counts(start, data, tmp_path):
    model = stored_weights.read_run(start)[0].model
    jobs = vtab.jobs(
        model, TASKS, str(tmp_path), start_from=start, seeds=1, change=_change
    )
    runner.run_all(jobs[:1], data_dir=data)
    (first,) = vtab.scores(jobs)
    assert (first.task, first.count) == ("dtd", TESTS)
    done = _command(
        start,
        data,
        tmp_path,
        "--tasks=specialized,dtd",
        "--skip_missing",
        "--image_size=16",
        "--config.data.batch_size=4",
        "--config.train.length=2",
        "--config.optim.warmup_steps=0",
        "--config.train.precision=float32",
    )
    assert done.returncode == 0, done.stderr
    assert "dtd seed=0: done\n" in done.stderr  # what the first call did is kept
    for score in vtab.scores(jobs):
        row = f"| {score.task} | {100 * score.mean:.2f} | 1 | {TESTS} |"
        assert row in done.stdout
    assert "natural, 1 of 7 tasks | - |" in done.stdout
    assert (tmp_path / "vtab.md").read_text() in done.stdout
    for job in jobs:
        result = runner.result(job.folder)
        protocol = vtab_splits.TASKS[job.name.split()[0]]
        assert result["config"]["data"]["split"] == protocol.train800val200
        assert result["config"]["optim"]["lr"] == 0.01
        assert not result["config"]["model"]["pre_logits"]


def test_numbers_of_other_weights_are_not_told(start, data, tmp_path):
    model = stored_weights.read_run(start)[0].model
    how = {"seeds": 1, "change": _change}
    jobs = vtab.jobs(model, ["dtd"], str(tmp_path), start_from=start, **how)
    runner.run_all(jobs, data_dir=data)
    assert len(vtab.scores(jobs)) == 1
    other = vtab.jobs(model, ["dtd"], str(tmp_path), start_from="b.npz", **how)
    assert vtab.scores(other) == []


def test_the_quick_look_is_kept_and_tells_what_it_has_learned(start, data, tmp_path):
    """Eight images, shown a hundred times: features that differ tell them apart."""
    linear = vtab.Linear(start, machine=tiny.one_device(), image_size=16)
    how = {"data_dir": data, "batch_size": 128}
    score = linear.score_once("dtd", str(tmp_path), **how)
    assert (score.mean, score.count) == (1.0, TESTS)
    again = linear.score_once("dtd", str(tmp_path), data_dir="/nowhere", batch_size=1)
    assert again == score
    other = vtab.Linear(start, machine=tiny.one_device(), image_size=32)
    with pytest.raises(errors.UserError, match="at 16 pixels; choose another"):
        other.score_once("dtd", str(tmp_path), **how)


def test_tasks_come_by_name_or_group_in_the_tables_order():
    assert vtab.choose_tasks(["all"]) == list(vtab_splits.TASKS)
    chosen = vtab.choose_tasks(["svhn", "specialized", "dtd", "camelyon"])
    assert chosen == ["dtd", "svhn", *vtab_splits.GROUPS["specialized"]]
    with pytest.raises(errors.UserError, match="--tasks=pest: .* mean pets"):
        vtab.choose_tasks(["pest"])


def test_what_is_not_prepared_is_named_with_its_command(data):
    tasks = ["dtd", "svhn", "pets"]
    with pytest.raises(errors.UserError) as caught:
        vtab.prepared_tasks(tasks, data, skip_missing=False)
    said = str(caught.value)
    assert "tools.prepare_data --dataset=vtab/svhn" in said
    assert "missing too: pets; --skip_missing" in said and "\n" not in said
    assert vtab.prepared_tasks(tasks, data, skip_missing=True) == ["dtd"]
    with pytest.raises(errors.UserError, match="svhn"):
        vtab.prepared_tasks(["svhn"], data, skip_missing=True)


def test_a_task_without_a_setting_of_its_own_is_the_papers():
    (job,) = vtab.jobs(
        config.Model(variant="ViT-L/16", pre_logits=True),
        ["kitti_distance"],
        "runs",
        start_from="w.npz",
        seeds=1,
    )
    assert (job.config.train.length, job.config.optim.lr) == (2500, 0.01)
    assert (job.config.data.image_size, job.config.data.crop) == (384, "resize")
    assert job.config.model == config.Model(variant="ViT-L/16")
    assert job.folder == "runs/kitti_distance/seed0"
