"""What is tried on which data set, as Table 4, BiT and AugReg say."""

import pytest

from vit_tf import config, errors
from vit_tf.recipes import fine_tuning, paper
from vit_tf.training import schedules

VIT = config.Model(variant="ViT-B/16", pre_logits=True, head_bias=-10.0, dropout=0.1)
RESNET = config.Model(variant="R50x1")


def _target(name="photos", examples=3_000, **fields):
    return fine_tuning.Target(
        name=name,
        examples=examples,
        development=("train[:90%]", "train[90%:]"),
        final=("train", "test"),
        **fields,
    )


def _candidates(protocol="paper", model=VIT, start_from="w.npz", **fields):
    return fine_tuning.candidates(
        protocol, model, _target(**fields), start_from=start_from
    )


@pytest.mark.parametrize("name", paper.FINETUNING)
def test_the_papers_sets_are_tried_as_in_table_4(name):
    found = _candidates(name=name, examples=50_000)
    steps, rates = paper.FINETUNING[name]
    assert list(found) == [f"lr={rate:g}" for rate in rates]
    for cfg, rate in zip(found.values(), rates):
        published = paper.finetune("ViT-B/16", name, start_from="w.npz", lr=rate)
        published.data.split = "train[:90%]"
        published.evals.splits = ("train[90%:]",)
        assert cfg == published
        assert (cfg.data.image_size, cfg.train.length) == (384, steps)


def test_the_head_of_pretraining_is_left_behind():
    cfg = next(iter(_candidates().values()))
    assert cfg.model == config.Model(variant="ViT-B/16")
    assert cfg.start_from == "w.npz"


@pytest.mark.parametrize(
    ("trained", "size"), [(None, 384), (32, 64), (224, 384), (196, 384), (150, 304)]
)
def test_own_images_have_at_most_four_times_the_tokens_of_the_start(trained, size):
    for name, want in (("photos", size), ("cifar10", 384)):
        found = fine_tuning.candidates(
            "paper", VIT, _target(name), start_from="w.npz", trained_size=trained
        )
        assert {cfg.data.image_size for cfg in found.values()} == {want}
    asked = fine_tuning.candidates(
        "paper", VIT, _target(), start_from="w", image_size=512, trained_size=trained
    )
    assert {cfg.data.image_size for cfg in asked.values()} == {512}


@pytest.mark.parametrize(
    ("examples", "steps"), [(3_000, 500), (20_000, 10_000), (500_000, 20_000)]
)
def test_other_sets_are_as_long_as_their_size_asks(examples, steps):
    for cfg in _candidates(examples=examples).values():
        assert cfg.train.length == steps
        assert cfg.train.precision == config.Precision.FLOAT32
        schedules.LearningRate(
            base=cfg.optim.lr,
            schedule=cfg.optim.schedule,
            total_steps=steps,
            warmup_steps=cfg.optim.warmup_steps,
        )


def test_small_images_are_not_blown_up_unless_the_paper_does():
    for cfg in _candidates(small=True).values():
        assert (cfg.data.image_size, cfg.data.crop) == (128, config.Crop.RANDOM_160)
    for cfg in _candidates(name="cifar10", small=True).values():
        assert (cfg.data.image_size, cfg.data.crop) == (384, config.Crop.RANDOM)


def test_a_resnet_also_tries_the_rule_of_bit():
    found = _candidates(model=RESNET, name="cifar100", examples=50_000, small=True)
    assert list(found)[-1] == "hyperrule"
    rule = found["hyperrule"]
    assert (rule.optim.lr, rule.optim.schedule) == (0.003, config.Schedule.STEPS)
    assert (rule.optim.clip_norm, rule.optim.weight_decay) == (None, 0.0)
    assert (rule.train.length, rule.optim.warmup_steps) == (10_000, 500)
    assert (rule.data.mixup, rule.data.image_size) == (0.1, 128)
    assert "hyperrule" not in _candidates(name="cifar100", examples=50_000)


@pytest.mark.parametrize(
    ("examples", "steps", "warmup", "mixup"),
    [(3_680, 500, 100, 0.0), (50_000, 10_000, 500, 0.1), (10**6, 20_000, 500, 0.1)],
)
def test_the_hyperrule_goes_by_size(examples, steps, warmup, mixup):
    (rule,) = _candidates("hyperrule", RESNET, examples=examples).values()
    assert (rule.train.length, rule.optim.warmup_steps) == (steps, warmup)
    assert (rule.data.mixup, rule.data.image_size) == (mixup, 384)


def test_augreg_tries_rates_and_lengths():
    found = _candidates("augreg", name="oxford_iiit_pet")
    assert len(found) == 6
    cfg = found["lr=0.003,steps=2500"]
    assert (cfg.optim.lr, cfg.train.length, cfg.optim.warmup_steps) == (3e-3, 2500, 200)
    assert cfg.data.crop == config.Crop.INCEPTION
    assert list(_candidates("augreg", name="imagenet2012", examples=10**6)) == [
        "lr=0.01,steps=20000",
        "lr=0.03,steps=20000",
    ]


def test_table_2_differs_on_imagenet_only():
    sizes = {"ViT-L/16": 512, "ViT-H/14": 518}
    for variant, size in sizes.items():
        found = _candidates(
            "table2",
            config.Model(variant=variant),
            name="imagenet2012",
            examples=1_281_167,
        )
        for cfg in found.values():
            assert (cfg.data.image_size, cfg.optim.polyak) == (size, 0.9999)
    with pytest.raises(errors.UserError, match="--protocol=paper for cifar10"):
        _candidates("table2", name="cifar10")


def test_patches_that_do_not_divide_take_the_next_size():
    huge = config.Model(variant="ViT-H/14")
    assert {c.data.image_size for c in _candidates(model=huge).values()} == {392}
    assert fine_tuning.vtab_task(huge, "dtd", start_from=None).data.image_size == 392
    for cfg in fine_tuning.candidates(
        "paper", huge, _target(), start_from=None, image_size=518
    ).values():
        assert cfg.data.image_size == 518


@pytest.mark.parametrize("name", fine_tuning.RESERVED)
def test_what_a_protocol_sets_cannot_be_changed(name):
    with pytest.raises(errors.UserError, match=f"--config.{name}: each run"):
        fine_tuning.check_changes(["optim.lr", name])
    fine_tuning.check_changes(["optim.lr", "data.batch_size"])


def test_vtab_has_one_setting_and_its_exceptions():
    found = _candidates(name="vtab/dsprites_location", flip=False, crop=False)
    (cfg,) = found.values()
    task = paper.vtab("ViT-B/16", "dsprites_location", start_from="w.npz")
    task.data.split, task.evals.splits = "train[:90%]", ("train[90%:]",)
    assert cfg == task


def test_the_final_run_has_all_data_and_its_own_seed():
    chosen = _candidates()["lr=0.01"]
    cfg = fine_tuning.final(chosen, _target(), seed=2)
    assert (cfg.data.split, cfg.evals.splits) == ("train", ("test",))
    assert cfg.train.seed == 2
    cfg.data.split, cfg.evals.splits, cfg.train.seed = (
        "train[:90%]",
        ("train[90%:]",),
        0,
    )
    assert cfg == chosen, "something else changed"
    assert chosen.train.seed == 0


def test_other_rates_replace_the_sweep():
    found = fine_tuning.with_rates(_candidates(), [0.1, 0.2])
    assert {name: cfg.optim.lr for name, cfg in found.items()} == {
        "lr=0.1": 0.1,
        "lr=0.2": 0.2,
    }
    grid = _candidates("augreg", name="oxford_iiit_pet")
    found = fine_tuning.with_rates(grid, [0.1])
    assert {name: cfg.train.length for name, cfg in found.items()} == {
        "lr=0.1,steps=500": 500,
        "lr=0.1,steps=2500": 2500,
    }


def test_a_rate_at_the_end_of_the_grid_is_told_from_one_within():
    def grid(*rates):
        return {f"lr={rate}": _with_rate(rate) for rate in rates}

    def _with_rate(rate):
        cfg = config.Config()
        cfg.optim.lr = rate
        return cfg

    edge = fine_tuning.edge_of_grid
    rates = grid(0.03, 0.01, 0.003)  # in any order
    assert edge(rates, "lr=0.003") == "lowest"
    assert edge(rates, "lr=0.03") == "highest"
    assert edge(rates, "lr=0.01") is None
    assert edge(grid(0.01), "lr=0.01") is None
