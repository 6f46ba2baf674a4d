"""Draft? (Table 6)

Draft for the names.
"""

import functools
from experiments import table
from vit_tf import config, recipes

METRIC = "accuracy"
_REAL = "imagenet2012_real/validation/accuracy"
# Model, epochs -> ImageNet, ReaL, CIFAR-10, CIFAR-100, Pets, Flowers; exaFLOPs.
_PAPER = {
    ("ViT-B/32", 7): (80.73, 86.27, 98.61, 90.49, 93.40, 99.27, 55),
    ("ViT-B/16", 7): (84.15, 88.85, 99.00, 91.87, 95.80, 99.56, 224),
    ("ViT-L/32", 7): (84.37, 88.28, 99.19, 92.52, 95.83, 99.45, 196),
    ("ViT-L/16", 7): (86.30, 89.43, 99.38, 93.46, 96.81, 99.66, 783),
    ("ViT-L/16", 14): (87.12, 89.99, 99.38, 94.04, 97.11, 99.56, 1567),
    ("ViT-H/14", 14): (88.08, 90.36, 99.50, 94.71, 97.11, 99.71, 4262),
    ("R50x1", 7): (77.54, 84.56, 97.67, 86.07, 91.11, 94.26, 50),
    ("R50x2", 7): (82.12, 87.94, 98.29, 89.20, 93.43, 97.02, 199),
    ("R101x1", 7): (80.67, 87.07, 98.48, 89.17, 94.08, 95.95, 96),
    ("R152x1", 7): (81.88, 87.96, 98.82, 90.22, 94.17, 96.94, 141),
    ("R152x2", 7): (84.97, 89.69, 99.06, 92.05, 95.37, 98.62, 563),
    ("R152x2", 14): (85.56, 89.89, 99.24, 91.92, 95.75, 98.75, 1126),
    ("R200x3", 14): (87.22, 90.15, 99.34, 93.53, 96.32, 99.04, 3306),
    ("R50+ViT-B/32", 7): (84.90, 89.15, 99.01, 92.24, 95.75, 99.46, 106),
    ("R50+ViT-B/16", 7): (85.58, 89.65, 99.14, 92.63, 96.65, 99.40, 274),
    ("R50+ViT-L/32", 7): (85.68, 89.04, 99.24, 92.93, 96.97, 99.43, 246),
    ("R50+ViT-L/16", 7): (86.60, 89.72, 99.18, 93.64, 97.03, 99.40, 859),
    ("R50+ViT-L/16", 14): (87.12, 89.76, 99.31, 93.89, 97.36, 99.11, 1668),
}
_TARGETS = (
    "imagenet2012",
    "real",
    "cifar10",
    "cifar100",
    "oxford_iiit_pet",
    "oxford_flowers102",
)


def _cells_of(variant, epochs):
    name = table.named(variant, str(epochs))
    *numbers, exaflops = _PAPER[variant, epochs]
    by = dict(zip(_TARGETS, numbers))
    found = [
        table.Cell(
            name,
            table.of_recipe(
                recipes.pretrain, variant, "jft300m", epochs=epochs, few_shot=True
            ),
        )
    ]
    for t in recipes.FINETUNING:
        paper = {METRIC: by[t]}
        if t == "imagenet2012":
            paper[_REAL] = by["real"]
        found.append(
            table.Cell(
                table.named(name, t),
                table.of_recipe(recipes.finetune, variant, t, start_from=None),
                starts_from=name,
                seeds=table.REPEATED,
                paper=paper,
            )
        )
    return found


CELLS = table.cells(*(c for key in _PAPER for c in _cells_of(*key)))
TABLE = table.Table(
    {METRIC: "accuracy [%]", _REAL: "ReaL [%]"}, scales=table.WITHOUT_SMALL
)


def get_config(argument: str | None = None) -> config.Config:
    return table.select(CELLS, argument, TABLE.scales)
