"""Every cell of every experiment builds, at every scale, and fits its schedule."""

import dataclasses

import keras
import pytest

from experiments import cifar10_small, finetune, pretrain, quickstart, vtab
from tests.support import found_experiments
from vit_tf import config, config_values, errors
from vit_tf.data import vtab_splits
from vit_tf.models import build
from vit_tf.recipes import paper
from vit_tf.runtime import timing
from vit_tf.studies import experiment_spec
from vit_tf.training import optimizers

# The cells at scale paper are in tests/experiments/test_paper_scale.py.
SCALES = [
    (name, scale)
    for scale in (experiment_spec.Scale.SMOKE, experiment_spec.Scale.SMALL)
    for name in found_experiments.at(scale)
]


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_cells_build_and_fit_their_schedule(name, scale):
    module = found_experiments.ALL[name]
    runs, built = experiment_spec.runs(module.CELLS, scale), set()
    assert runs
    for run in runs:
        cfg = run.config
        assert config_values.from_json(config_values.to_json(cfg)) == cfg
        if run.seed > 0:
            continue
        assert module.get_config(f"{run.cell.name},{scale}") == cfg
        key = dataclasses.astuple(cfg.model), cfg.data.image_size
        if key not in built:
            model = build.outline(cfg.model, num_classes=10, image_size=key[1])
            assert model.weights
            built.add(key)
        steps = timing.num_steps(
            cfg.train, batch_size=cfg.data.batch_size, num_examples=30_000
        )
        optimizers.build(cfg.optim, total_steps=steps, variables=[keras.Variable(0.0)])


@pytest.mark.parametrize("task", vtab.CELLS)
def test_a_vtab_task_is_the_papers_setting(task):
    cfg, protocol = vtab.get_config(f"{task},paper"), vtab_splits.TASKS[task]
    assert (cfg.train.length, cfg.optim.lr, cfg.data.batch_size) == (2500, 0.01, 512)
    assert (cfg.data.image_size, cfg.data.name) == (384, f"vtab/{task}")
    assert cfg.data.split == f"train[:800]+{protocol.val200}"
    assert cfg.evals.splits == (protocol.test,)
    mirrored = {"dsprites_location", "dsprites_orientation", "smallnorb_azimuth"}
    assert cfg.data.flip == (task not in mirrored)
    whole = {"clevr_count", "clevr_distance", "dmlab", "kitti_distance"}
    kept = task in whole | {"dsprites_location"}
    assert (cfg.data.crop == config.Crop.RESIZE) == kept


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
    assert cfg == paper.pretrain("ViT-L/16", "imagenet2012")
    assert pretrain.get_config() == paper.pretrain("ViT-B/16", "imagenet21k")


def test_a_cell_without_a_scale_named_is_at_one_that_it_has():
    for name, module in found_experiments.ALL.items():
        for cell in module.CELLS.values():
            there = [s for s in module.TABLE.scales if cell.num_seeds(s)]
            chosen = "small" if "small" in there else "paper"
            if chosen in there:
                cfg = module.get_config(cell.name)
                assert cfg == cell.make(experiment_spec.Scale(chosen)), (
                    name,
                    cell.name,
                )


@pytest.mark.parametrize(
    ("argument", "there"),
    [("ViT-L-16_14,small", "paper"), ("ViT-L-16_7_new,paper", "smoke or small")],
)
def test_a_scale_that_a_cell_has_not_is_refused(argument, there):
    module = found_experiments.ALL["table6_scaling"]
    with pytest.raises(errors.UserError, match=f"this cell is at scale {there} only"):
        module.get_config(argument)


@pytest.mark.parametrize("argument", ["", "pretrian", "pretrain,large"])
def test_unknown_cells_are_refused(argument):
    with pytest.raises(errors.UserError, match="no such"):
        quickstart.get_config(argument)
