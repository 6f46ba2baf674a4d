"""How well does ViT-S/16 do on ImageNet alone, with few and simple changes?

"Better plain ViT baselines for ImageNet-1k" (arXiv 2205.01580): mean pooling, fixed sines
and cosines, batch 1024, and a little RandAugment and mixup, for 90, 150 and 300 epochs;
then each change undone alone, all of them, and all but the augmentation. The paper's 90
epochs took six and a half hours on eight TPUv3 cores.

Undone means the setting of the ViT paper: a class token, learned positions, batch 4096 at
the same learning rate, no augmentation but crops and flips. What else differs from it
(soft-max loss, weight decay, clipping) stays, since the report does not say.

Trained on 99 % of ImageNet; accuracies are of its validation images. There is no scale
`small`; experiments/cifar10_small.py trains such a model on two cores. `smoke` is two
steps of everything.

Scale `paper`: 24 runs, 3,845,932 steps, 151 exaFLOPs, 70.9 TPUv3-core-days at 40 %
utilisation.

    python -m tools.run_experiment --scale=paper --experiment=experiments/plain_vit.py
"""

from collections.abc import Callable

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"

_EPOCHS = (90, 150, 300)


def _without_augmentation(cfg: config.Config) -> None:
    cfg.data.randaug_layers, cfg.data.mixup = 0, 0.0


def _learned_positions(cfg: config.Config) -> None:
    cfg.model.positions = config.Positions.LEARNED_1D


def _large_batch(cfg: config.Config) -> None:
    cfg.data.batch_size = 4096


def _class_token(cfg: config.Config) -> None:
    cfg.model.pool = config.Pool.TOKEN


def _linear_head(cfg: config.Config) -> None:
    cfg.model.pre_logits = False


_AUGMENTED = (_learned_positions, _large_batch, _class_token)

# Row of the report's table -> what is changed, accuracy after 90, 150 and 300 epochs.
_ROWS: dict[str, tuple[tuple[Callable, ...], tuple[float, ...]]] = {
    "plain": ((), (76.5, 78.5, 80.0)),
    "no_augmentation": ((_without_augmentation,), (73.6, 73.7, 73.7)),
    "learned_positions": ((_learned_positions,), (75.0, 78.0, 79.6)),
    "batch_4096": ((_large_batch,), (74.7, 77.3, 78.6)),
    "class_token": ((_class_token,), (75.0, 76.9, 78.2)),
    "linear_head": ((_linear_head,), (76.7, 78.6, 79.8)),
    "original_augmented": (_AUGMENTED, (71.6, 74.8, 76.1)),
    "original": ((*_AUGMENTED, _without_augmentation), (66.8, 67.2, 67.1)),
}


def _pretrain(row: str, epochs: int) -> config.Config:
    """Trains the baseline of arXiv 2205.01580, with or without one of its changes."""
    cfg = paper.plain_vit(epochs)
    for change in _ROWS[row][0]:
        change(cfg)
    return cfg


CELLS = experiment_spec.cells(
    *(
        experiment_spec.Cell(
            f"{row}_{epochs}",
            experiment_spec.of_recipe(_pretrain, row, epochs),
            paper={METRIC: accuracy},
            note=f"{epochs} epochs",
        )
        for row, (_, accuracies) in _ROWS.items()
        for epochs, accuracy in zip(_EPOCHS, accuracies)
    )
)

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


PLOTS = (
    experiment_spec.Plot(
        "ViT-S/16 on ImageNet alone",
        {
            row.replace("_", " "): [
                experiment_spec.Point([f"{row}_{epochs}"], epochs) for epochs in _EPOCHS
            ]
            for row in _ROWS
        },
        METRIC,
        x="Epochs of training",
        y="ImageNet top-1 accuracy [%]",
        note="A dot is a whole training of that length.",
    ),
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'plain_90', 'original_300', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
