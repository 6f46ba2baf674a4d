"""Recipes hold the numbers of Tables 3 and 4, and of AugReg."""

import pytest

from vit_tf import config, errors
from vit_tf.models import build
from vit_tf.recipes import paper


@pytest.mark.parametrize(
    ("variant", "dataset", "epochs", "lr", "decay", "dropout", "schedule"),
    [
        ("ViT-B/16", "jft300m", 7, 8e-4, 0.1, 0.0, "linear"),
        ("ViT-L/32", "jft300m", 7, 6e-4, 0.1, 0.0, "linear"),
        ("ViT-L/16", "jft300m", 14, 4e-4, 0.1, 0.0, "linear"),
        ("ViT-H/14", "jft300m", 14, 3e-4, 0.1, 0.0, "linear"),
        ("R50x1", "jft300m", 7, 1e-3, 0.1, 0.0, "linear"),
        ("R50x2", "jft300m", 7, 1e-3, 0.1, 0.0, "linear"),
        ("R101x1", "jft300m", 7, 8e-4, 0.1, 0.0, "linear"),
        ("R152x1", "jft300m", 7, 6e-4, 0.1, 0.0, "linear"),
        ("R152x2", "jft300m", 7, 6e-4, 0.1, 0.0, "linear"),
        ("R200x3", "jft300m", 14, 4e-4, 0.1, 0.0, "linear"),
        ("R50+ViT-B/16", "jft300m", 7, 8e-4, 0.1, 0.0, "linear"),
        ("R50+ViT-B/32", "jft300m", 7, 8e-4, 0.1, 0.0, "linear"),
        ("R50+ViT-L/32", "jft300m", 7, 2e-4, 0.1, 0.0, "linear"),
        ("R50+ViT-L/16", "jft300m", 14, 4e-4, 0.1, 0.0, "linear"),
        ("ViT-B/32", "imagenet21k", 90, 1e-3, 0.03, 0.1, "linear"),
        ("ViT-L/16", "imagenet21k", 90, 1e-3, 0.03, 0.1, "linear"),
        ("ViT-L/16", "imagenet2012", 300, 3e-3, 0.3, 0.1, "cosine"),
    ],
)
def test_pretraining_is_table_3(variant, dataset, epochs, lr, decay, dropout, schedule):
    cfg = paper.pretrain(variant, dataset)
    assert (cfg.train.length, cfg.train.unit) == (epochs, config.Unit.EPOCHS)
    assert (cfg.optim.lr, cfg.optim.weight_decay) == (lr, decay)
    assert (cfg.model.dropout, cfg.optim.schedule) == (dropout, schedule)
    assert (cfg.data.batch_size, cfg.data.image_size) == (4096, 224)
    assert (cfg.optim.warmup_steps, cfg.optim.linear_end) == (10_000, 1e-5)
    assert (cfg.optim.beta1, cfg.optim.beta2) == (0.9, 0.999)
    assert cfg.optim.clip_norm == (1.0 if dataset == "imagenet2012" else None)
    assert cfg.objective.loss == config.Loss.SIGMOID
    assert cfg.model.pre_logits == ("ViT" in variant)
    build.outline(cfg.model, num_classes=2, image_size=cfg.data.image_size)


@pytest.mark.parametrize(
    ("dataset", "steps", "sweep"),
    [
        ("imagenet2012", 20_000, (0.003, 0.01, 0.03, 0.06)),
        ("cifar10", 10_000, (0.001, 0.003, 0.01, 0.03)),
        ("cifar100", 10_000, (0.001, 0.003, 0.01, 0.03)),
        ("oxford_iiit_pet", 500, (0.001, 0.003, 0.01, 0.03)),
        ("oxford_flowers102", 500, (0.001, 0.003, 0.01, 0.03)),
    ],
)
def test_finetuning_is_table_4(dataset, steps, sweep):
    assert paper.FINETUNING[dataset] == (steps, sweep)
    for lr in sweep:
        cfg = paper.finetune("ViT-B/16", dataset, start_from="a.npz", lr=lr)
        assert (cfg.train.length, cfg.optim.lr) == (steps, lr)
    assert (cfg.optim.rule, cfg.optim.momentum) == (config.Rule.SGD, 0.9)
    assert (cfg.optim.clip_norm, cfg.optim.weight_decay) == (1.0, 0.0)
    assert (cfg.data.batch_size, cfg.data.image_size) == (512, 384)
    assert cfg.optim.schedule == config.Schedule.COSINE
    assert not cfg.model.pre_logits and cfg.start_from == "a.npz"


@pytest.mark.parametrize("dataset", paper.FINETUNING)
def test_finetuning_is_scored_on_the_final_split(dataset):
    from vit_tf.data import catalog

    train, test = catalog.DATASETS[dataset].final
    cfg = paper.finetune("ViT-B/16", dataset, start_from=None)
    assert (cfg.data.split, cfg.evals.splits) == (train, (test,))


@pytest.mark.parametrize("dataset", ["imagenet2012", "imagenet21k"])
def test_pretraining_reads_and_reports_the_final_splits(dataset):
    from vit_tf.data import catalog

    cfg = paper.pretrain("ViT-B/16", dataset)
    assert (cfg.data.split, *cfg.evals.splits) == catalog.DATASETS[dataset].final


def test_moments_are_bfloat16_where_a_public_recipe_says_so_and_no_where_else():
    papers = [
        paper.pretrain("ViT-B/16", "imagenet2012"),
        paper.pretrain("R152x2", "jft300m"),
        paper.pretrain_bit("R50x1", "jft300m", epochs=7),
        paper.masked_patch(),
        paper.finetune("ViT-B/16", "cifar10", start_from=None),
        paper.vtab("ViT-B/16", "svhn", start_from=None),
    ]
    assert {str(cfg.optim.moment_dtype) for cfg in papers} == {"float32"}
    later = [paper.augreg("ViT-B/16", "imagenet21k", level="none"), paper.plain_vit()]
    assert {str(cfg.optim.moment_dtype) for cfg in later} == {"bfloat16"}


def test_r152x2_is_trained_for_either_length():
    for epochs in (7, 14):  # Table 3's and Table 6's second run
        cfg = paper.pretrain("R152x2", "jft300m", epochs=epochs)
        assert (cfg.train.length, cfg.optim.lr) == (epochs, 6e-4)


def test_pretraining_may_be_shorter_and_ask_for_few_shots():
    short = paper.pretrain("ViT-L/16", "jft300m", epochs=7, few_shot=True)
    assert (short.train.length, short.optim.lr) == (7, 4e-4)
    assert short.evals.few_shot.datasets == ("imagenet2012",)
    assert paper.pretrain("ViT-L/16", "jft300m").evals.few_shot.datasets == ()


def test_resnets_are_pretrained_as_bit_does():
    cfg = paper.pretrain_bit("R50x1", "jft300m", epochs=7)
    optim = cfg.optim
    assert (optim.rule, optim.momentum, optim.warmup_steps) == ("sgd", 0.9, 5000)
    assert (optim.lr, optim.schedule) == (0.03 * 16, config.Schedule.STEPS_JFT)
    # BiT's 1e-4 in the gradient, summed up by momentum.
    assert optim.weight_decay == pytest.approx(1e-4 / (1 - optim.momentum))
    adam = paper.pretrain("R50x1", "jft300m", epochs=7)
    cfg.optim = adam.optim
    assert cfg == adam


def test_table_2_shows_larger_images_and_averages():
    for variant, size, usual in (("ViT-L/16", 512, 384), ("ViT-H/14", 518, 392)):
        cfg = paper.finetune(variant, "imagenet2012", start_from=None)
        assert (cfg.data.image_size, cfg.optim.polyak) == (usual, None)
        paper.show_larger(cfg, variant)
        assert (cfg.data.image_size, cfg.optim.polyak) == (size, 0.9999)
    assert paper.vtab("ViT-H/14", "svhn", start_from=None).data.image_size == 392


def test_plain_vit_is_its_report():
    cfg = paper.plain_vit(150)
    model, data, optim = cfg.model, cfg.data, cfg.optim
    assert (model.variant, model.pool, model.positions) == (
        "ViT-S/16",
        "gap",
        "sincos2d",
    )
    assert (model.pre_logits, model.head_bias, model.dropout) == (True, 0, 0)
    assert (data.name, data.split, data.batch_size) == (
        "imagenet2012",
        "train[:99%]",
        1024,
    )
    assert (data.randaug_layers, data.randaug_magnitude, data.mixup) == (2, 10, 0.2)
    assert (data.image_size, data.eval_crop) == (224, "central")
    assert (optim.lr, optim.warmup_steps, optim.clip_norm) == (1e-3, 10_000, 1)
    assert optim.lr * optim.weight_decay == pytest.approx(1e-4)
    assert (optim.schedule, optim.moment_dtype) == ("cosine", "bfloat16")
    assert (cfg.objective.loss, cfg.train.length) == ("softmax", 150)
    assert cfg.evals.splits == ("validation",)


def test_what_the_tables_do_not_have_is_refused():
    with pytest.raises(errors.UserError, match="no pre-training recipe for ViT-S/16"):
        paper.pretrain("ViT-S/16", "jft300m")
    with pytest.raises(
        errors.UserError, match="no pre-training recipe for R50x1 on im"
    ):
        paper.pretrain("R50x1", "imagenet21k")
    with pytest.raises(errors.UserError, match="did you mean cifar10"):
        paper.finetune("ViT-B/16", "cifar-10", start_from=None)


@pytest.mark.parametrize(
    ("level", "layers", "magnitude", "mixup"),
    [
        ("none", 0, 0, 0),
        ("light1", 2, 0, 0),
        ("light2", 2, 10, 0.2),
        ("medium1", 2, 15, 0.2),
        ("medium2", 2, 15, 0.5),
        ("strong1", 2, 20, 0.5),
        ("strong2", 2, 20, 0.8),
    ],
)
@pytest.mark.parametrize(
    ("dataset", "bias"), [("imagenet2012", -6.9), ("imagenet21k", -10)]
)
def test_augreg_is_its_study(level, layers, magnitude, mixup, dataset, bias):
    cfg = paper.augreg("ViT-S/32", dataset, level=level)
    data, model = cfg.data, cfg.model
    assert (data.randaug_layers, data.randaug_magnitude) == (layers, magnitude)
    assert (data.mixup, data.cutmix, data.batch_size) == (mixup, 0, 4096)
    assert (data.crop, data.image_size, data.name) == ("inception", 224, dataset)
    assert (cfg.optim.lr, cfg.optim.schedule) == (1e-3, config.Schedule.COSINE)
    assert (cfg.optim.weight_decay, cfg.optim.clip_norm) == (0.1, 1)
    assert (cfg.optim.rule, cfg.optim.warmup_steps) == (config.Rule.ADAM, 10_000)
    assert (cfg.train.length, cfg.train.unit) == (300, config.Unit.EPOCHS)
    # Of the authors' configs.
    assert cfg.optim.moment_dtype == "bfloat16"
    imagenet = dataset == "imagenet2012"
    assert data.split == ("train[:99%]" if imagenet else "full[51200:]")
    assert cfg.evals.splits == ("validation" if imagenet else "full[:25600]",)
    assert (model.variant, model.head_bias) == ("ViT-S/32", bias)
    assert (model.dropout, model.stochastic_depth) == (0, 0)
    assert model.pre_logits == (dataset == "imagenet2012")
    assert cfg.objective.loss == config.Loss.SIGMOID
    strict = paper.augreg("ViT-S/32", dataset, level=level, regularised=True)
    assert (strict.model.dropout, strict.model.stochastic_depth) == (0.1, 0.1)


def test_what_augreg_does_not_have_is_refused():
    with pytest.raises(errors.UserError, match="did you mean medium"):
        paper.augreg("ViT-B/16", "imagenet21k", level="medium")
    with pytest.raises(errors.UserError, match="no AugReg recipe for 'jft300m'"):
        paper.augreg("ViT-B/16", "jft300m", level="none")


def test_masked_patches_are_learned_as_b12_says():
    cfg = paper.masked_patch()
    assert (cfg.model.variant, cfg.data.name) == ("ViT-B/16", "jft300m")
    optim, train = cfg.optim, cfg.train
    assert (optim.rule, optim.lr, optim.warmup_steps) == ("adam", 2e-4, 10_000)
    assert (optim.schedule, optim.weight_decay, optim.clip_norm) == (
        "cosine",
        0.1,
        None,
    )
    assert (train.length, train.unit, cfg.data.batch_size) == (1e6, "steps", 4096)
    assert not cfg.model.pre_logits and cfg.model.dropout == 0
    task = cfg.objective
    assert (task.task, task.target, task.corruption) == (
        "masked_patch",
        "mean_color",
        0.5,
    )
    cfg = paper.masked_patch(target=config.Target.PIXELS, corruption=0.15)
    assert (cfg.objective.target, cfg.objective.corruption) == ("pixels", 0.15)
    assert cfg.evals.measures == ("pixel_error", "loss")
