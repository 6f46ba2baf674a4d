"""The released AugReg recipes are those that the names of the files say."""

import re

import pytest

from experiments import augreg
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

# Names of the recommended files (README of google-research/vision_transformer), and
# their accuracy on ImageNet at 384 pixels.
FILES = {
    "L_16-aug_strong1-wd_0.1-do_0.0-sd_0.0--lr_0.01": 85.59,
    "B_16-aug_medium1-wd_0.1-do_0.0-sd_0.0--lr_0.03": 85.49,
    "S_16-aug_light1-wd_0.03-do_0.0-sd_0.0--lr_0.03": 83.73,
    "R50_L_32-aug_medium1-wd_0.1-do_0.1-sd_0.1--lr_0.01": 85.99,
    "R26_S_32-aug_light1-wd_0.1-do_0.0-sd_0.0--lr_0.01": 83.85,
    "Ti_16-aug_none-wd_0.03-do_0.0-sd_0.0--lr_0.03": 78.22,
    "B_32-aug_light1-wd_0.1-do_0.0-sd_0.0--lr_0.01": 83.59,
    "S_32-aug_none-wd_0.1-do_0.0-sd_0.0--lr_0.01": 79.58,
    "R_Ti_16-aug_none-wd_0.03-do_0.0-sd_0.0--lr_0.03": 75.40,
}
# Their levels -> the paper's.
LEVELS = {
    "none": "none",
    "light1": "light2",
    "medium1": "medium1",
    "strong1": "strong1",
}


@pytest.mark.parametrize("file", FILES)
def test_a_released_recipe_is_that_of_its_file(file):
    pattern = r"(\w+)_(\d+)-aug_(\w+)-wd_([\d.]+)-do_([\d.]+)-sd_([\d.]+)--lr_([\d.]+)"
    size, patch, level, decay, dropout, depth, rate = re.fullmatch(
        pattern, file
    ).groups()
    stem, _, size = size.rpartition("_")
    name = f"{stem}+ViT-{size}-{patch}" if stem else f"ViT-{size}-{patch}"
    cfg = augreg.CELLS[name].make(experiment_spec.Scale.PAPER)
    data, model = cfg.data, cfg.model
    assert (data.randaug_layers, data.randaug_magnitude, data.mixup) == paper.AUGREG[
        LEVELS[level]
    ]
    assert (model.dropout, model.stochastic_depth) == (float(dropout), float(depth))
    assert cfg.optim.weight_decay == float(decay)
    tuned = augreg.CELLS[f"{name}_384"]
    assert tuned.paper == {augreg.METRIC: FILES[file]}
    tuned = tuned.make(experiment_spec.Scale.PAPER)
    assert tuned.optim.lr == float(rate)
    assert tuned.optim.moment_dtype == "bfloat16"
