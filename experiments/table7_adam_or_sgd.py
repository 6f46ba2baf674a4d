"""Which pre-trains ResNets better, Adam or SGD?

The paper (Table 7, appendix D.1) trains its ResNets with Adam, as its Transformers,
though BiT and all others use SGD. ResNet50x1 and ResNet152x2, both ways, for seven
epochs on JFT-300M, then fine-tuned as always: Adam is better on most data sets and on
average.

The runs with Adam are those of experiments/table6_scaling.py. Those with SGD are BiT's
(`recipes.pretrain_bit`), with its marks at the same shares of seven epochs; the paper
does not say where its were. Fine-tunings take the third rate of Table 4's sweep; the
paper's sweep also tries BiT's rule (`python -m tools.transfer --protocol=paper` does
both, `--protocol=hyperrule` that one).

There is no scale `small`: the answer is about one data set of 300 million images and one
recipe for it. `smoke` is two steps of everything.

Scale `paper`: 32 runs, 1,281,644 steps, 663 exaFLOPs, 312 TPUv3-core-days at 40 %
utilisation. Not counted: 32 runs shared with other experiments, 663 exaFLOPs.

    python -m tools.run_experiment --scale=paper \
        --experiment=experiments/table7_adam_or_sgd.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"

_MODELS = ("R50x1", "R152x2")

# Of each model: with Adam, with SGD.
_PAPER = {
    "imagenet2012": ((77.54, 78.24), (84.97, 84.37)),
    "cifar10": ((97.67, 97.46), (99.06, 99.07)),
    "cifar100": ((86.07, 85.17), (92.05, 91.06)),
    "oxford_iiit_pet": ((91.11, 91.00), (95.37, 94.79)),
    "oxford_flowers102": ((94.26, 92.06), (98.62, 99.32)),
}
AVERAGES = {
    ("R50x1", "adam"): 89.33,
    ("R50x1", "sgd"): 88.79,
    ("R152x2", "adam"): 94.01,
    ("R152x2", "sgd"): 93.72,
}


def _pretrain(variant: str, rule: str) -> config.Config:
    """Pre-trains as Table 3 on JFT-300M, or as BiT (arXiv 1912.11370) with momentum."""
    if rule == "sgd":
        return paper.pretrain_bit(variant, "jft300m", epochs=7)
    return paper.pretrain(variant, "jft300m", epochs=7, few_shot=True)


def _shared(variant: str, *target: str) -> str:
    return f"table6_scaling:{experiment_spec.named(variant, '7', *target)}"


def _cells_of(variant: str, rule: str) -> list[experiment_spec.Cell]:
    """Lists a pre-training, and what it is fine-tuned to."""
    adam = rule == "adam"
    pretrained = experiment_spec.named(variant, rule)
    cells = [
        experiment_spec.Cell(
            pretrained,
            experiment_spec.of_recipe(_pretrain, variant, rule),
            same_as=_shared(variant) if adam else None,
            note=f"pre-training; the paper's average of the five data sets: "
            f"{AVERAGES[variant, rule]}",
        )
    ]
    for target, numbers in _PAPER.items():
        number = numbers[_MODELS.index(variant)][("adam", "sgd").index(rule)]
        cells.append(
            experiment_spec.Cell(
                experiment_spec.named(pretrained, target),
                experiment_spec.of_recipe(
                    paper.finetune, variant, target, start_from=None
                ),
                starts_from=pretrained,
                seeds=experiment_spec.REPEATED,
                same_as=_shared(variant, target) if adam else None,
                paper={METRIC: number},
            )
        )
    return cells


CELLS = experiment_spec.cells(*(cell for pair in AVERAGES for cell in _cells_of(*pair)))

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


_AXIS = {
    "imagenet2012": "ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "oxford_iiit_pet": "Oxford-IIIT Pets",
    "oxford_flowers102": "Oxford Flowers-102",
}


def _points(variant: str, rule: str) -> list[experiment_spec.Point]:
    cells = {of: experiment_spec.named(variant, rule, of) for of in _PAPER}
    points = [experiment_spec.Point([cells[of]], place) for of, place in _AXIS.items()]
    return [*points, experiment_spec.Point(list(cells.values()), "Average")]


PLOTS = (
    experiment_spec.Plot(
        "Table 7",
        {
            f"{variant}, {name}": _points(variant, rule)
            for variant in _MODELS
            for rule, name in (("adam", "Adam"), ("sgd", "SGD"))
        },
        METRIC,
        x="",
        y="Accuracy [%]",
        across=experiment_spec.X.PLACE,
        places=(*_AXIS.values(), "Average"),
        joined=False,
    ),
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'R50x1_sgd', 'R50x1_sgd_cifar10', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
