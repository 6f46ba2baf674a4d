"""Every cell of every experiment builds, at every scale, and fits its schedule."""

import pytest

from experiments import cifar10_small, finetune, pretrain, quickstart, table
from vit_tf import config, optim, recipes
from vit_tf.models import build

CELLS = [
    (module, f"{cell},{scale}")
    for module in (quickstart, cifar10_small)
    for cell in module.CELLS
    for scale in table.Scale
]


@pytest.mark.parametrize(("module", "argument"), CELLS)
def test_cells_build(module, argument):
    cfg = module.get_config(argument)
    assert config.from_json(config.to_json(cfg)) == cfg
    model = build.build(cfg.model, num_classes=10, image_size=cfg.data.image_size)
    assert model.count_params() > 0
    steps = config.num_steps(
        cfg.train, batch_size=cfg.data.batch_size, num_examples=50_000
    )
    optim.build(cfg.optim, total_steps=steps, variables=model.trainable_variables)


def test_a_cell_without_scale_is_small():
    assert quickstart.get_config("pretrain") == quickstart.get_config("pretrain,small")


def test_from_scratch_differs_from_finetuning_by_its_start_only():
    ours, theirs = (quickstart.get_config(c) for c in ("finetune", "scratch"))
    assert ours == theirs


def test_pretraining_and_finetuning_are_the_same_encoder():
    ours, theirs = (quickstart.get_config(c).model for c in ("pretrain", "finetune"))
    theirs.pre_logits = True  # the head that transfer leaves behind
    assert ours == theirs


def test_the_cifar_model_has_one_to_three_million_parameters():
    cfg = cifar10_small.get_config("vit")
    model = build.build(cfg.model, num_classes=10, image_size=32)
    assert 1e6 < model.count_params() < 3e6


def test_finetuning_ones_own_images_takes_any_variant():
    cfg = finetune.get_config("ViT-L/32")
    assert cfg.model.variant == "ViT-L/32"
    assert (cfg.optim.rule, cfg.optim.clip_norm) == (config.Rule.SGD, 1.0)


def test_pretraining_is_the_recipe():
    cfg = pretrain.get_config("ViT-L/16,imagenet2012")
    assert cfg == recipes.pretrain("ViT-L/16", "imagenet2012")
    assert pretrain.get_config() == recipes.pretrain("ViT-B/16", "imagenet21k")


@pytest.mark.parametrize("argument", ["", "pretrian", "pretrain,large"])
def test_unknown_cells_are_refused(argument):
    with pytest.raises(config.Refused, match="no such"):
        quickstart.get_config(argument)
