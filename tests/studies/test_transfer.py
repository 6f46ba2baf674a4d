"""Transfer end to end on tiny runs: what is tried, chosen, repeated and shown."""

import dataclasses
import json
import pathlib
import re
import types

import numpy as np
import pytest

from tests.support import tiny, warm
from vit_tf import errors
from vit_tf.data import catalog
from vit_tf.recipes import fine_tuning
from vit_tf.runs import run_directory
from vit_tf.studies import runner, transfer

SEEDS = 2


def _target(source):
    return transfer.describe(source)


def _candidates(**rates):
    """Runs of a few steps; the rates may be mad."""
    found = {}
    for name, lr in rates.items():
        cfg = tiny.make(
            optim__rule="sgd",
            optim__lr=lr,
            optim__clip_norm="none",
            optim__weight_decay=0,
            optim__warmup_steps=0,
            train__length=6,
            train__checkpoint_every_steps=6,
        )
        cfg.data.split, cfg.evals.splits = "train[:512]", ("validation",)
        found[name] = cfg
    return found


@pytest.fixture(scope="module")
def source(data_dir):
    return catalog.open_source("digits", data_dir)


@pytest.fixture(scope="module")
def finished(source, data_dir, once):
    """A sweep of three, of which one diverges, and the final runs."""
    candidates = _candidates(low=1e-9, mad=1e6, good=0.3)

    def run(folder):
        return transfer.run(
            _target(source), candidates, str(folder), seeds=SEEDS, data_dir=data_dir
        )

    workdir = once("transfer", run)
    return candidates, str(workdir), run(workdir)  # which repeats nothing


def test_the_best_of_those_that_did_not_diverge_is_chosen(finished):
    _, _, outcome = finished
    ended = {name: value for name, value in outcome.tried.items() if name != "mad"}
    assert outcome.tried["mad"] is None
    assert outcome.chosen == max(ended, key=ended.get)
    tried = {"a": 0.1, "b": None, "c": 0.3, "d": 0.3}
    assert transfer.best(tried, "runs/photos") == "c"


def test_final_runs_see_all_training_data_and_differ_by_seed(finished, source):
    candidates, workdir, outcome = finished
    assert len(outcome.folders) == SEEDS
    for seed, folder in enumerate(outcome.folders):
        result = runner.result(folder)
        assert result["config"]["train"]["seed"] == seed
        assert result["config"]["data"]["split"] == "train"
        assert result["config"]["optim"]["lr"] == candidates[outcome.chosen].optim.lr
        (accuracy, _) = result["metrics"]
        assert accuracy["split"] == "test"
        assert accuracy["value"] == outcome.accuracies[seed]
        assert accuracy["count"] == outcome.count == source.num_examples("test")
    assert outcome.mean == pytest.approx(np.mean(outcome.accuracies))
    assert outcome.std == pytest.approx(np.std(outcome.accuracies, ddof=1))
    summary = json.loads(pathlib.Path(workdir, "transfer.json").read_text())
    assert (summary["chosen"], summary["mean"]) == (outcome.chosen, outcome.mean)
    assert outcome.held_out == source.num_examples("validation")


def test_the_same_call_repeats_nothing(finished, source, data_dir, monkeypatch):
    candidates, workdir, outcome = finished

    def trains(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(runner.training, "train", trains)
    again = transfer.run(
        _target(source), candidates, workdir, seeds=SEEDS, data_dir=data_dir
    )
    assert again == outcome


def test_another_plan_in_the_same_folder_is_refused(finished, source, data_dir):
    _, workdir, _ = finished
    other = _candidates(low=1e-9, good=0.31)
    with pytest.raises(errors.UserError, match="optim.lr: 0.3 against 0.31"):
        transfer.run(_target(source), other, workdir, data_dir=data_dir)


def test_when_all_diverge_lower_rates_are_named():
    with pytest.raises(
        errors.UserError, match="every candidate diverged .* lower rates"
    ):
        transfer.best({"lr=1": None, "lr=2": None}, "runs/photos")


def test_confusions_and_mistakes_are_those_of_the_recorded_accuracy(finished, source):
    _, _, outcome = finished
    found = transfer.predictions(outcome.folders[0], source, tiny.one_device())
    matrix = transfer.confusion(found, source.num_classes)
    assert matrix.sum() == outcome.count
    assert matrix.trace() / outcome.count == pytest.approx(outcome.accuracies[0])
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(found.label))
    places = transfer.worst_mistakes(found, 5)
    assert len(places) == 5 and not found.hit[places].any()
    assert found.nll[places[0]] == found.nll[~found.hit].max()
    assert (np.diff(found.nll[places]) <= 0).all()


def test_pictures_come_in_the_order_asked(source):
    data = tiny.make().data
    places = np.array([7, 2, 300])
    shown = transfer.pictures(source, data, "test", places)
    assert shown.shape == (3, data.image_size, data.image_size, 3)
    assert 0 <= shown.min() and shown.max() <= 1
    alone = transfer.pictures(source, data, "test", places[2:])
    np.testing.assert_array_equal(shown[2], alone[0])


@pytest.mark.parametrize(
    ("splits", "development", "final"),
    [
        ("train test validation", "train validation", "train+validation test"),
        ("train test", "train[:90%] train[90%:]", "train test"),
        ("train validation", "train[:90%] train[90%:]", "train validation"),
        ("train", "train[:80%] train[80%:90%]", "train[:90%] train[90%:]"),
    ],
)
def test_splits_follow_from_what_there_is(splits, development, final):
    class Source:
        name = "photos"
        spec = types.SimpleNamespace(development=None, final=None)

        class builder:
            class info:
                pass

    Source.builder.info.splits = dict.fromkeys(splits.split())
    found = transfer.splits(Source)
    assert found == (tuple(development.split()), tuple(final.split()))


def test_the_rows_of_the_table_say_the_splits(source):
    target = transfer.describe(source)
    assert target.development == ("train", "validation")
    assert target.final == ("train", "test")
    assert target.small and target.examples == 1197


def test_a_split_too_small_to_choose_by_is_refused_with_the_way_out(source):
    target = dataclasses.replace(
        _target(source), development=("train[:1196]", "train[1197:]")
    )
    sweep = _candidates(low=0.01, high=0.1)
    with pytest.raises(
        errors.UserError, match="no examples; 2 candidates .* --lrs=0.01"
    ):
        transfer.check(source, target, sweep)
    transfer.check(source, target, {"low": sweep["low"]})
    target = dataclasses.replace(target, final=("train", "tset"))
    with pytest.raises(errors.UserError, match="tset"):
        transfer.check(source, target, {"low": sweep["low"]})


def _command(*arguments):
    return warm.run("-m", "tools.transfer", *arguments)


def test_the_command_fine_tunes_a_run_and_draws(finished, data_dir, tmp_path):
    _, _, outcome = finished
    done = _command(
        f"--start_from={outcome.folders[0]}",
        "--dataset=digits",
        f"--data_dir={data_dir}",
        f"--workdir={tmp_path}",
        "--lrs=0.03,0.1",
        "--steps=3",
        "--seeds=1",
        "--image_size=16",
        "--num_devices=2",
        "--config.evals.measures=nll",
        "--mistakes=3",
        "--config.data.batch_size=8",
    )
    assert done.returncode == 0, done.stderr
    assert "digits test: " in done.stdout and "of 400 images" in done.stdout
    # How sure the choice is, and that a rate further out was not tried.
    count = catalog.open_source("digits", data_dir).num_examples("validation")
    assert f"  {count:,} images decided" in done.stdout
    assert re.search(r"lr=0.03: [\d.]+ % \[[\d.]+, [\d.]+\] on valid", done.stdout)
    assert re.search(
        r"lr=0\.\d+ has the (lowest|highest) rate .* try --lrs=", done.stdout
    )
    assert "1 and 1 final left, about" in done.stderr
    for name in ("confusion.png", "mistakes.png", "transfer.json"):
        assert (tmp_path / name).stat().st_size > 0
    result = runner.result(str(tmp_path / "final" / "seed0"))
    assert result["config"]["model"]["variant"] == "ViT-mu/8"
    assert result["config"]["optim"]["warmup_steps"] == 0
    assert run_directory.read_rows(str(tmp_path / "final" / "seed0"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset=digits"], "--start_from is missing"),
        (["--dataset=digits", "--variant=ViT-B/16", "--lrs=fast"], "need numbers"),
        (["--dataset=digits", "--variant=ViT-B/16", "--lrs=0"], "need numbers above 0"),
        (["--dataset=digits", "--variant=ViT-B/16", "--lrs="], "need numbers above 0"),
        (
            ["--dataset=digits", "--variant=ViT-B/16", "--config.evals.splits=test"],
            "--config.evals.splits: each run of the protocol",
        ),
        (
            ["--dataset=digits", "--variant=ViT-B/16", "--image_size=100"],
            "image size 100: not a multiple of the patch size 16",
        ),
        (["--dataset=digits", "--variant=ViT-B/17", "--protocol=table2"], "for digits"),
    ],
)
def test_wrong_flags_are_one_line(arguments, said, data_dir, tmp_path):
    done = _command(*arguments, f"--workdir={tmp_path}/w", f"--data_dir={data_dir}")
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_protocols_are_the_flags_choices():
    assert set(fine_tuning.Protocol) == {"paper", "table2", "hyperrule", "augreg"}
