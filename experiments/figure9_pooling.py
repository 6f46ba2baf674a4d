"""Does a ViT need a class token, or does the mean over its patches do as well?

The paper's Figure 9 (appendix D.3): linear 5-shot accuracy on ImageNet over the epochs
of pre-training. With the learning rate of the class token, 8e-4, the mean did much
worse; with 3e-4 it did as well. So the learning rate was the difference, not the token.
The class token has the head with a hidden layer, the mean a linear one.

Scale `small` tries both at three learning rates, on CIFAR-10 (experiments/small.py).

    python -m tools.run_experiment --experiment=experiments/figure9_pooling.py --record
"""

import functools

from experiments import small, table
from vit_tf import config, recipes

METRIC = small.FEW_SHOT


def pretrain(scale: table.Scale, *, pool: config.Pool, lr: float) -> config.Config:
    """Pre-training with a pool and a learning rate, evaluated as it goes."""
    cfg = recipes.pretrain("ViT-B/16", "jft300m")
    cfg.evals.few_shot.datasets = ("imagenet2012",)
    cfg.evals.every_steps = 25_000
    if scale != table.Scale.PAPER:
        cfg.model = small.model()
        cfg = small.pretrain(cfg, scale, steps=400)
        cfg.evals.every_steps = 100 if scale == table.Scale.SMALL else 1
    cfg.model.pool = pool
    cfg.model.pre_logits = pool is config.Pool.TOKEN
    cfg.optim.lr = lr
    return cfg


_RATES = ("3e-4", "8e-4", "24e-4")
# The figure's three lines; it has no numbers in words.
_PAPER = {
    ("token", "8e-4"): "as good as the mean at 3e-4",
    ("gap", "8e-4"): "much worse",
    ("gap", "3e-4"): "as good as the token at 8e-4",
}

CELLS = table.cells(
    *(
        table.Cell(
            f"{pool.value}_{rate}",
            functools.partial(pretrain, pool=pool, lr=float(rate)),
            seeds=small.seeds(2, paper=int((pool.value, rate) in _PAPER)),
            note=f"the paper: {_PAPER[pool.value, rate]}"
            if (pool.value, rate) in _PAPER
            else "not in the paper",
        )
        for pool in (config.Pool.TOKEN, config.Pool.GAP)
        for rate in _RATES
    )
)

TABLE = table.Table(
    {
        METRIC: "four new kinds, linear 100-shot [%]",
        "test/accuracy": "six known kinds [%]",
        "imagenet2012/validation/5shot": "ImageNet, linear 5-shot [%]",
    },
    scales=tuple(table.Scale),
)


def get_config(argument: str | None = None) -> config.Config:
    """The config of a cell: 'token_8e-4', 'gap_3e-4', ..., and a scale."""
    return table.select(CELLS, argument, TABLE.scales)
