"""Budgets against the paper's tables, and against what a real run leaves on disk."""

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.costs.test_flops import TABLE_6
from tests.support import tiny, tiny_config
from vit_tf import config, config_values, errors
from vit_tf.costs import accelerators, budget
from vit_tf.recipes import paper


def _folder_bytes(folder: pathlib.Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("variant", "epochs", "published"), [TABLE_6[i] for i in (3, 5, 6, 17)]
)
def test_a_pretraining_costs_what_table_6_says(variant, epochs, published):
    cfg = paper.pretrain(variant, "jft300m")
    cfg.train.length = epochs
    found = budget.estimate(cfg)
    assert found.exaflops == pytest.approx(published, rel=0.01)
    # Counted here: 517,822 steps of 4096 for 7 epochs (14 fit one more than twice).
    assert found.steps == epochs * 303_000_000 // 4096
    assert found.images == found.steps * 4096


@pytest.mark.parametrize(
    ("variant", "dataset", "core_days"),
    [
        ("ViT-H/14", "jft300m", 2500),
        ("ViT-L/16", "jft300m", 680),
        ("ViT-L/16", "imagenet21k", 230),
    ],
)
def test_core_days_are_table_2s(variant, dataset, core_days):
    found = budget.estimate(paper.pretrain(variant, dataset))
    assert found.core_days(budget.UTILISATION) == pytest.approx(core_days, rel=0.2)
    own = budget.PAPER_UTILISATION[
        f"{variant}, {'JFT-300M' if dataset == 'jft300m' else 'ImageNet-21k'}"
    ]
    # Of ImageNet-21k 0.4 % are kept to evaluate on.
    assert found.core_days(own) == pytest.approx(core_days, rel=0.005)


def test_eight_cores_need_a_month_for_vit_l_on_imagenet21k():
    """ "In approximately 30 days" (section 1 of the paper's results)."""
    found = budget.estimate(paper.pretrain("ViT-L/16", "imagenet21k"))
    assert found.steps == 310_823 and found.parameters == 326_740_307
    days = found.days(accelerators.find("v3-8"), budget.UTILISATION)
    assert days == pytest.approx(30, rel=0.05)


def test_finetuning_counts_its_own_images_and_size():
    cfg = paper.finetune("ViT-L/16", "cifar10", start_from=None)
    found = budget.estimate(cfg)
    assert (found.steps, found.examples) == (10_000, 50_000)
    # Computed from the sizes: 191.07 GMAC at 384 pixels.
    assert found.exaflops == pytest.approx(6 * 191.07e9 * 5.12e6 / 1e18, rel=1e-3)


@pytest.mark.parametrize("fixture", ["evaluated", "masked"])
def test_checkpoints_weigh_what_a_real_run_leaves(fixture, request, data_dir):
    folder = pathlib.Path(request.getfixturevalue(fixture))
    cfg = config_values.from_json((folder / "config.json").read_text())
    found = budget.estimate(cfg, data_dir=data_dir)
    stored = sorted((folder / "checkpoints").glob("step_*"))
    arrays = tiny.newest_state(folder)
    # Beyond what is counted: the step and the learning rate.
    counters = sum(array.nbytes for array in arrays.values()) - found.checkpoint_bytes
    assert 0 < counters <= 16
    # Beside the arrays lie TensorFlow's index and the names of all.
    for checkpoint in stored:
        more = _folder_bytes(checkpoint) - found.checkpoint_bytes
        assert 0 < more < 600 * len(arrays)
    assert len(stored) <= found.kept_checkpoints <= len(stored) + 1
    assert found.parameters == tiny.result(folder)["parameters"]
    assert found.steps == tiny.result(folder)["steps"]
    final = sum((folder / n).stat().st_size for n in ("weights.npz", "objective.npz")
                if (folder / n).exists())  # fmt: skip
    owned = found.kept_bytes - found.kept_checkpoints * found.checkpoint_bytes
    assert 0 < final - owned < 16_000


def test_moments_and_averages_count_with_their_types():
    cfg = tiny_config.make()
    parts = {}
    for name, changes in {
        "adam": {},
        "short": {"optim__moment_dtype": "bfloat16"},
        "sgd": {"optim__rule": "sgd"},
        "average": {"optim__polyak": 0.9},
    }.items():
        parts[name] = budget.estimate(tiny_config.make(**changes)).checkpoint_bytes
    number = budget.estimate(cfg).parameters
    assert parts["adam"] == 12 * number
    assert parts["adam"] - parts["short"] == 2 * number
    assert parts["adam"] - parts["sgd"] == 4 * number
    assert parts["average"] - parts["adam"] == 4 * number


@given(
    every=st.integers(1, 20),
    total=st.integers(1, 100),
    keep=st.integers(1, 4),
    keep_every=st.one_of(st.none(), st.integers(1, 50)),
    best=st.booleans(),
)
def test_kept_steps_follow_the_rule_of_the_keeper(every, total, keep, keep_every, best):
    train = config.Train(
        checkpoint_every_steps=every,
        keep_checkpoints=keep,
        keep_every_steps=keep_every,
        keep_best="test/accuracy" if best else None,
    )
    saved, here = [s for s in range(1, total + 1) if s % every == 0 or s == total], []
    for step in saved:  # the best is the first, the hardest to keep
        here = [*here, step]
        here = [
            s
            for s in here
            if s in here[-keep:]
            or (keep_every and s % keep_every == 0)
            or (best and s == saved[0])
        ]
    assert len(budget.kept_steps(train, total)) == len(here)


@pytest.mark.parametrize(
    ("changes", "examples"),
    [
        ({"data__split": "train[:98%]"}, 49_000),
        ({"data__split": "train[:800]+test[:200]"}, 1000),
        ({"data__subset__amount": 0.1}, 5000),
        ({"data__subset__amount": 500, "data__subset__unit": "examples"}, 500),
        ({"data__subset__amount": 5, "data__subset__unit": "shots"}, 50),
    ],
)
def test_an_epoch_is_the_split_and_of_it_the_subset(changes, examples, tmp_path):
    cfg = tiny_config.make(data__name="cifar10", **changes)
    assert budget.estimate(cfg, data_dir=str(tmp_path)).examples == examples


def test_data_volume_counts_epochs_unless_the_set_stays_in_memory(tmp_path):
    here = {"data_dir": str(tmp_path)}
    large = budget.estimate(paper.pretrain("ViT-B/32", "imagenet2012"), **here)
    assert large.epoch_bytes == 147_897_477_120
    assert large.read_bytes == pytest.approx(300 * large.epoch_bytes, rel=1e-4)
    small = budget.estimate(
        paper.finetune("ViT-B/32", "cifar10", start_from=None), **here
    )
    assert small.read_bytes == small.epoch_bytes == pytest.approx(1.157e8, rel=1e-3)
    assert (
        budget.estimate(paper.pretrain("ViT-B/32", "jft300m"), **here).read_bytes
        is None
    )


def test_what_lies_here_is_believed_before_the_catalogue(data_dir):
    found = budget.estimate(tiny_config.make(), data_dir=data_dir)
    assert found.source == "digits 1.0.0 as prepared here" and found.examples == 1197
    assert found.epoch_bytes is not None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data__name": "photos"}, "num_examples=N and num_classes=N"),
        ({"data__name": "cifar10", "data__split": "trian"}, "no split 'trian'"),
        ({"data__name": "cifar10", "data__subset__amount": 2}, "more than the whole"),
        ({"model__variant": "ViT-B/16x"}, "model.variant"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_a_line(changes, line, tmp_path):
    with pytest.raises(errors.UserError, match=line) as refusal:
        budget.estimate(tiny_config.make(**changes), data_dir=str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_an_unknown_set_is_counted_as_its_owner_says():
    cfg = tiny_config.make(data__name="photos", train__length=2, train__unit="epochs")
    found = budget.estimate(cfg, num_examples=1600, num_classes=7)
    assert (found.examples, found.steps, found.source) == (1600, 200, "as given")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("v3-8", 4 * 123),
        ("v3-32", 16 * 123),
        ("v4-8", 4 * 275),
        ("v5p-8", 4 * 459),
        ("v5e-8", 8 * 197),
        ("v6e-1", 918),
        ("h100x8", 8 * 989),
        ("a100", 312),
    ],
)
def test_devices_by_their_rented_names(name, tflops):
    found = accelerators.find(name)
    assert found.tflops == pytest.approx(tflops)
    assert found.is_tpu == name.startswith("v")


@pytest.mark.parametrize("name", ["v3-9", "h100x0", "tpu", "v3", "", "h100-8"])
def test_devices_that_there_are_not(name):
    with pytest.raises(errors.UserError, match=f"^device={name}: not known"):
        accelerators.find(name)


def test_days_fall_with_devices_and_with_utilisation():
    found = budget.estimate(paper.pretrain("ViT-B/16", "imagenet2012"))
    one, eight = (accelerators.find(n) for n in ("h100", "h100x8"))
    assert found.days(one, 0.5) == pytest.approx(8 * found.days(eight, 0.5))
    assert found.days(one, 0.25) == pytest.approx(2 * found.days(one, 0.5))
    # By hand: 989e12 operations a second, 86,400 seconds.
    assert found.days(one, 1.0) == pytest.approx(found.exaflops / 85.4496)
    assert np.isclose(found.core_days(0.5), found.days(accelerators.find("v3-8"), 0.5) * 8)  # fmt: skip
