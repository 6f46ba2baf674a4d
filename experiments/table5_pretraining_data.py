"""How much does the data that a ViT was pre-trained on matter?

The paper's Table 5: five models, each pre-trained on ImageNet, ImageNet-21k and
JFT-300M and fine-tuned on five data sets at 384 pixels (H/14 at 392, which its patches
divide), without Table 2's average. On ImageNet alone the large models are no better
than the small ones; it is JFT-300M that shows what they are worth. Figure 3 is the rows
of ImageNet.

The paper's rows 'ReaL' are the runs on ImageNet, judged by other labels:

    python -m tools.evaluate --dataset=imagenet2012_real \
        --checkpoint=runs/table5_pretraining_data/paper/ViT-B-16_imagenet21k_imagenet2012.seed0

Each fine-tuning takes the third rate of Table 4's sweep. To sweep on a part of the
training split, as the paper does, give the pre-training's folder to tools.transfer:

    python -m tools.transfer --dataset=cifar10 --workdir=runs/sweep \
        --start_from=runs/table5_pretraining_data/paper/ViT-B-16_imagenet21k.seed0

There is no scale `small`: experiments/figure4_few_shot.py asks its question of small
data. `smoke` is two steps of everything.

Scale `paper`: 144 runs, 3,036,455 steps, 2,698 exaFLOPs, 1,269 TPUv3-core-days at 40 %
utilisation. Not counted: 80 runs shared with other experiments, 6,621 exaFLOPs.

    python -m tools.run_experiment --scale=paper \
        --experiment=experiments/table5_pretraining_data.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"
_REAL = "imagenet2012_real/validation/accuracy"

# Each with the epochs of its training on JFT-300M, which Table 6 shares.
_MODELS = {
    "ViT-B/16": 7,
    "ViT-B/32": 7,
    "ViT-L/16": 14,
    "ViT-L/32": 7,
    "ViT-H/14": 14,
}

# Pre-trained on, fine-tuned on -> the models in their order.
_PAPER = {
    ("imagenet2012", "cifar10"): (98.13, 97.77, 97.86, 97.94),
    ("imagenet2012", "cifar100"): (87.13, 86.31, 86.35, 87.07),
    ("imagenet2012", "imagenet2012"): (77.91, 73.38, 76.53, 71.16),
    ("imagenet2012", "real"): (83.57, 79.56, 82.19, 77.83),
    ("imagenet2012", "oxford_flowers102"): (89.49, 85.43, 89.66, 86.36),
    ("imagenet2012", "oxford_iiit_pet"): (93.81, 92.04, 93.64, 91.35),
    ("imagenet21k", "cifar10"): (98.95, 98.79, 99.16, 99.13, 99.27),
    ("imagenet21k", "cifar100"): (91.67, 91.97, 93.44, 93.04, 93.82),
    ("imagenet21k", "imagenet2012"): (83.97, 81.28, 85.15, 80.99, 85.13),
    ("imagenet21k", "real"): (88.35, 86.63, 88.40, 85.65, 88.70),
    ("imagenet21k", "oxford_flowers102"): (99.38, 99.11, 99.61, 99.19, 99.51),
    ("imagenet21k", "oxford_iiit_pet"): (94.43, 93.02, 94.73, 93.09, 94.82),
    ("jft300m", "cifar10"): (99.00, 98.61, 99.38, 99.19, 99.50),
    ("jft300m", "cifar100"): (91.87, 90.49, 94.04, 92.52, 94.55),
    ("jft300m", "imagenet2012"): (84.15, 80.73, 87.12, 84.37, 88.04),
    ("jft300m", "real"): (88.85, 86.27, 89.99, 88.28, 90.33),
    ("jft300m", "oxford_flowers102"): (99.56, 99.27, 99.56, 99.45, 99.68),
    ("jft300m", "oxford_iiit_pet"): (95.80, 93.40, 97.11, 95.83, 97.56),
}
_TARGETS = [target for data, target in _PAPER if data == "jft300m" and target != "real"]


def _numbers(variant: str, data: str, target: str) -> dict[str, float]:
    at = list(_MODELS).index(variant)
    numbers = {METRIC: _PAPER[data, target][at]}
    if target == "imagenet2012":
        numbers[_REAL] = _PAPER[data, "real"][at]
    return numbers


def _shared(variant: str, *target: str) -> str:
    name = experiment_spec.named(variant, str(_MODELS[variant]), *target)
    return f"table6_scaling:{name}"


def _cells_of(variant: str, data: str) -> list[experiment_spec.Cell]:
    """Lists a pre-training, and what it is fine-tuned to."""
    pretrained = experiment_spec.named(variant, data)
    jft = data == "jft300m"
    cells = [
        experiment_spec.Cell(
            pretrained,
            experiment_spec.of_recipe(paper.pretrain, variant, data, few_shot=jft),
            same_as=_shared(variant) if jft else None,
            note=f"pre-training{f', {_MODELS[variant]} epochs' if jft else ''}",
        )
    ]
    for target in _TARGETS:
        name = experiment_spec.named(pretrained, target)
        cells.append(
            experiment_spec.Cell(
                name,
                experiment_spec.of_recipe(
                    paper.finetune, variant, target, start_from=None
                ),
                starts_from=pretrained,
                seeds=experiment_spec.REPEATED,
                same_as=_shared(variant, target) if jft else None,
                paper=_numbers(variant, data, target),
                note="the third rate of Table 4's sweep",
            )
        )
    return cells


CELLS = experiment_spec.cells(
    *(
        cell
        for data in ("imagenet2012", "imagenet21k", "jft300m")
        # The paper has no ViT-H/14 on ImageNet alone.
        for variant in tuple(_MODELS)[: len(_PAPER[data, "cifar10"])]
        for cell in _cells_of(variant, data)
    )
)

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]", _REAL: "ReaL [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


# Figure 3's words for what a model was pre-trained on.
_AXIS = {
    "imagenet2012": "ImageNet",
    "imagenet21k": "ImageNet-21k",
    "jft300m": "JFT-300M",
}

PLOTS = (
    experiment_spec.Plot(
        "Figure 3",
        {
            variant: [
                experiment_spec.Point(
                    [experiment_spec.named(variant, data, "imagenet2012")], place
                )
                for data, place in _AXIS.items()
                if experiment_spec.named(variant, data) in CELLS
            ]
            for variant in _MODELS
        },
        METRIC,
        x="Pre-training dataset",
        y="ImageNet top-1 accuracy [%]",
        across=experiment_spec.X.PLACE,
        places=tuple(_AXIS.values()),
        joined=False,
        note="Drawn from Table 5; the paper's band of BiT has no numbers.",
    ),
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'ViT-L-16_jft300m', 'ViT-L-16_jft300m_cifar10', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
