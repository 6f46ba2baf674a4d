"""How good is a ViT that was pre-trained on a lot of data?

The paper's Table 2: ViT-H/14 and ViT-L/16 pre-trained on JFT-300M, and ViT-L/16 on
ImageNet-21k, each fine-tuned three times: on ImageNet at 512 pixels (H/14: 518) with a
Polyak average of 0.9999, on the others as in Tables 5 and 6, whose runs these are. (The
paper's were runs of their own, so its numbers differ a little.) The paper's best
earlier models are BiT-L (ResNet152x4) with 87.54 on ImageNet, 99.37 on CIFAR-10, 93.51
on CIFAR-100, 96.62 on Pets, 99.63 on Flowers and 76.29 on VTAB for 9.9k TPUv3-core-
days, and Noisy Student with 88.4 on ImageNet for 12.3k.

ReaL are the runs on ImageNet, judged by other labels; VTAB's 19 tasks are in
experiments/table9_vtab.py, and this table's number is their mean:

    python -m tools.evaluate --dataset=imagenet2012_real \
        --checkpoint=runs/table2_state_of_the_art/paper/ViT-L-16_imagenet21k_imagenet2012.seed0

Each run takes the third rate of Table 4's sweep. To sweep on a part of the training
split, as the paper does: tools.transfer with --protocol=table2 for ImageNet and
--protocol=paper for the others, and the pre-training's folder as --start_from.

There is no scale `small`: nothing that two cores train is a state of the art. `smoke` is
two steps of everything.

Scale `paper`: 9 runs, 180,000 steps, 321 exaFLOPs, 151 TPUv3-core-days at 40 %
utilisation. Not counted: 39 runs shared with other experiments, 6,474 exaFLOPs.

    python -m tools.run_experiment --scale=paper \
        --experiment=experiments/table2_state_of_the_art.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"
_REAL = "imagenet2012_real/validation/accuracy"
_VTAB = "vtab/mean"

# Model and data -> whose run the pre-training is at scale `paper`, and what the paper
# says that it took.
_PRETRAINED = {
    ("ViT-H/14", "jft300m"): ("table6_scaling:ViT-H-14_14", "2.5k"),
    ("ViT-L/16", "jft300m"): ("table6_scaling:ViT-L-16_14", "0.68k"),
    ("ViT-L/16", "imagenet21k"): (
        "table5_pretraining_data:ViT-L-16_imagenet21k",
        "0.23k",
    ),
}

# Mean and standard deviation of three fine-tunings, in the order of _PRETRAINED.
_PAPER = {
    "imagenet2012": ((88.55, 0.04), (87.76, 0.03), (85.30, 0.02)),
    "real": ((90.72, 0.05), (90.54, 0.03), (88.62, 0.05)),
    "cifar10": ((99.50, 0.06), (99.42, 0.03), (99.15, 0.03)),
    "cifar100": ((94.55, 0.04), (93.90, 0.05), (93.25, 0.05)),
    "oxford_iiit_pet": ((97.56, 0.03), (97.32, 0.11), (94.67, 0.15)),
    "oxford_flowers102": ((99.68, 0.02), (99.74, 0.00), (99.61, 0.02)),
    "vtab": ((77.63, 0.23), (76.28, 0.46), (72.72, 0.21)),
}


def finetune(variant: str, target: str) -> config.Config:
    """Fine-tunes as Table 4, on ImageNet with larger images and an average."""
    cfg = paper.finetune(variant, target, start_from=None)
    if target == "imagenet2012":
        paper.show_larger(cfg, variant)
    return cfg


def _cells_of(variant: str, data: str) -> list[experiment_spec.Cell]:
    """Lists a pre-training, and what it is fine-tuned to."""
    at = list(_PRETRAINED).index((variant, data))
    shared, core_days = _PRETRAINED[variant, data]
    mean, deviation = _PAPER["vtab"][at]
    pretrained = experiment_spec.named(variant, data)
    cells = [
        experiment_spec.Cell(
            pretrained,
            experiment_spec.of_recipe(
                paper.pretrain, variant, data, few_shot=data == "jft300m"
            ),
            same_as=shared,
            paper={_VTAB: mean},
            note=f"pre-training; the paper's took {core_days} TPUv3-core-days; VTAB ± "
            f"{deviation:.2f}, in experiments/table9_vtab.py",
        )
    ]
    for target in paper.FINETUNING:
        mean, deviation = _PAPER[target][at]
        numbers, note = {METRIC: mean}, f"the paper's ± {deviation:.2f}"
        if target == "imagenet2012":
            numbers[_REAL], more = _PAPER["real"][at]
            note += f"; ReaL ± {more:.2f}"
        cells.append(
            experiment_spec.Cell(
                experiment_spec.named(pretrained, target),
                experiment_spec.of_recipe(finetune, variant, target),
                starts_from=pretrained,
                seeds=experiment_spec.REPEATED,
                same_as=None if target == "imagenet2012" else f"{shared}_{target}",
                paper=numbers,
                note=note,
            )
        )
    return cells


CELLS = experiment_spec.cells(
    *(cell for key in _PRETRAINED for cell in _cells_of(*key))
)

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]", _REAL: "ReaL [%]", _VTAB: "VTAB (19) [%]"},
    scales=experiment_spec.WITHOUT_SMALL,
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'ViT-H-14_jft300m', 'ViT-H-14_jft300m_cifar10', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
