"""How well do the paper's best ViTs adapt to 19 tasks from 1,000 examples each?

The paper's Table 9, VTAB-1k with three models: 2,500 steps at learning rate 0.01 and
384 pixels (H/14: 392), the same for all tasks but for the flips and crops that would
change what an image shows; three runs of each. The score is the plain mean over the 19
tasks. The means of the groups, which are Figure 2's bars for ViT-H/14, follow from the
table:

    Natural 86.69, Specialized 87.00, Structured 65.03 (ViT-L/16 on JFT-300M: 85.56, 86.72,
    62.96; on ImageNet-21k: 83.27, 84.65, 57.50)

To run the tasks with a model of your own, or a published one, and see these means, use
`python -m tools.vtab`, or experiments/vtab.py, which also has a scale `small`; there is
none here, as that one model does not need three pre-trainings. `smoke` is two steps of
everything. Every task has to be prepared first:

    python -m tools.prepare_data --dataset=vtab/svhn

Scale `paper`: 171 runs, 427,500 steps, 406 exaFLOPs, 191 TPUv3-core-days at 40 %
utilisation. Not counted: 3 runs shared with other experiments, 6,295 exaFLOPs.

    python -m tools.run_experiment --scale=paper --experiment=experiments/table9_vtab.py
"""

from vit_tf import config
from vit_tf.data import vtab_splits
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"

# Model and data -> whose run the pre-training is at scale `paper`.
PRETRAINED = {
    ("ViT-H/14", "jft300m"): "table6_scaling:ViT-H-14_14",
    ("ViT-L/16", "jft300m"): "table6_scaling:ViT-L-16_14",
    ("ViT-L/16", "imagenet21k"): "table5_pretraining_data:ViT-L-16_imagenet21k",
}

# In the order of PRETRAINED.
_PAPER = {
    "caltech101": (95.3, 95.4, 90.8),
    "cifar100": (85.5, 81.9, 84.1),
    "dtd": (75.2, 74.3, 74.1),
    "flowers102": (99.7, 99.7, 99.3),
    "pets": (97.2, 96.7, 92.7),
    "sun397": (65.0, 63.5, 61.0),
    "svhn": (88.9, 87.4, 80.9),
    "camelyon": (83.3, 83.6, 82.5),
    "eurosat": (96.7, 96.5, 95.6),
    "resisc45": (91.4, 89.7, 85.2),
    "retinopathy": (76.6, 77.1, 75.3),
    "clevr_count": (91.7, 86.4, 70.3),
    "clevr_distance": (63.8, 63.1, 56.1),
    "dmlab": (53.1, 49.7, 41.9),
    "dsprites_location": (79.4, 74.5, 74.7),
    "dsprites_orientation": (63.3, 60.5, 64.9),
    "kitti_distance": (84.5, 82.2, 79.9),
    "smallnorb_azimuth": (33.2, 36.2, 30.5),
    "smallnorb_elevation": (51.2, 51.1, 41.7),
}
MEANS = (77.6, 76.3, 72.7)


def _cells_of(variant: str, data: str) -> list[experiment_spec.Cell]:
    """Lists a pre-training and the 19 tasks."""
    at = list(PRETRAINED).index((variant, data))
    pretrained = experiment_spec.named(variant, data)
    cells = [
        experiment_spec.Cell(
            pretrained,
            experiment_spec.of_recipe(
                paper.pretrain, variant, data, few_shot=data == "jft300m"
            ),
            same_as=PRETRAINED[variant, data],
            note=f"pre-training; the paper's mean of the 19 tasks: {MEANS[at]}",
        )
    ]
    for task in vtab_splits.TASKS:
        cells.append(
            experiment_spec.Cell(
                experiment_spec.named(pretrained, task),
                experiment_spec.of_recipe(paper.vtab, variant, task, start_from=None),
                starts_from=pretrained,
                seeds=experiment_spec.REPEATED,
                paper={METRIC: _PAPER[task][at]},
            )
        )
    return cells


CELLS = experiment_spec.cells(*(cell for key in PRETRAINED for cell in _cells_of(*key)))

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


def _points(variant: str, data: str) -> list[experiment_spec.Point]:
    """Computes the means over all tasks and over those of a group."""
    groups = {"VTAB": vtab_splits.TASKS} | vtab_splits.GROUPS
    return [
        experiment_spec.Point(
            [experiment_spec.named(variant, data, task) for task in tasks], name
        )
        for name, tasks in groups.items()
    ]


_DATA = {"jft300m": "JFT", "imagenet21k": "I21k"}

PLOTS = (
    experiment_spec.Plot(
        "Figure 2",
        {
            f"{variant} ({_DATA[data]})": _points(variant, data)
            for variant, data in PRETRAINED
        },
        METRIC,
        x="VTAB and its groups of tasks",
        y="Accuracy [%]",
        across=experiment_spec.X.PLACE,
        places=("VTAB", *vtab_splits.GROUPS),
        joined=False,
        note="Means of Table 9; the paper draws its bars of BiT-L, VIVI and S4L without "
        "numbers.",
    ),
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'ViT-H-14_jft300m', 'ViT-H-14_jft300m_svhn', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
