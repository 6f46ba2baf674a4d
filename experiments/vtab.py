"""How well does one pre-trained model adapt to 19 tasks from 1,000 examples each?

VTAB-1k as the paper runs it (Table 4, Table 9): 2,500 steps at learning rate 0.01 and
384 pixels, the same for all tasks but for the flips and crops that would change what
an image shows. The argument names the task, scale `small` is a taste of it for two
cores; every task of the paper has to be prepared first:

    python -m tools.prepare_data --dataset=vtab/svhn
    python -m tools.train --config=experiments/vtab.py:svhn,paper \
        --config.start_from=ViT-B_16.npz --workdir=runs/svhn

The paper's mean over the 19 tasks is 77.63 for ViT-H/14 (JFT-300M) and 72.72 for
ViT-L/16 (ImageNet-21k); experiments/table9_vtab.py has the paper's own models.

Scale `paper`: 57 runs, 142,500 steps, 24.3 exaFLOPs, 11.4 TPUv3-core-days at 40 %
utilisation.

    python -m tools.run_experiment --experiment=experiments/vtab.py --scale=paper \
        --start_from=ViT-B_16.npz
"""

import functools

from vit_tf import config
from vit_tf.data import vtab_splits
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"


def task(name: str, scale: experiment_spec.Scale) -> config.Config:
    """Fine-tunes as Table 4 on a task; the model is `--config.model.variant`."""
    cfg = paper.vtab("ViT-B/16", name, start_from=None)
    if scale == experiment_spec.Scale.PAPER:
        return cfg
    small = scale == experiment_spec.Scale.SMALL
    cfg.model.variant = "ViT-Ti/16" if small else "ViT-mu/16"
    cfg.data.image_size = 64 if small else 32
    cfg.data.batch_size = 64 if small else 4
    cfg.optim.warmup_steps = 20 if small else 1
    cfg.train.length = 200 if small else 2
    cfg.train.precision = config.Precision.FLOAT32
    cfg.train.steps_per_loop = 1
    return cfg


# The paper's numbers are of three runs.
_SEEDS = {
    experiment_spec.Scale.SMOKE: 1,
    experiment_spec.Scale.SMALL: 1,
    experiment_spec.Scale.PAPER: 3,
}

CELLS = experiment_spec.cells(
    *(
        experiment_spec.Cell(
            name, functools.partial(task, name), start_given=True, seeds=_SEEDS
        )
        for name in vtab_splits.TASKS
    )
)
# The paper has no numbers for ViT-B/16, and each task has its own name for its test.
TABLE = experiment_spec.Table(
    columns={METRIC: "accuracy [%]"}, scales=tuple(experiment_spec.Scale)
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a task, and a scale."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
