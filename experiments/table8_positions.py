"""What does a ViT lose without position embeddings, and does their kind matter?

The paper's Table 8 (appendix D.4): ViT-B/16, linear 5-shot accuracy on ImageNet. None
of the kinds with positions is better than another, nor is any place to put them in;
without, 3 % are lost.

Scale `small` has 16 patches of 8 pixels instead of 196 of 16, four blocks instead of
twelve, and asks about four kinds of CIFAR-10 after learning six (experiments/small.py).

    python -m tools.run_experiment --experiment=experiments/table8_positions.py --record
"""

import functools

from experiments import small, table
from vit_tf import config, recipes

METRIC = small.FEW_SHOT

Kind, At = config.Positions, config.PositionsAt


def pretrain(scale: table.Scale, *, kind: Kind, at: At = At.STEM) -> config.Config:
    """Pre-training with a kind of positions, put in at a place."""
    cfg = recipes.pretrain("ViT-B/16", "jft300m")
    cfg.evals.few_shot.datasets = ("imagenet2012",)
    if scale != table.Scale.PAPER:
        cfg.model = small.model()
        cfg.optim.lr = 1e-3
        cfg = small.pretrain(cfg, scale, steps=400)
    cfg.model.positions, cfg.model.positions_at = kind, at
    return cfg


# Table 8: kind -> place -> linear 5-shot accuracy on ImageNet [%].
_PAPER = {
    Kind.NOWHERE: {At.STEM: 61.382},
    Kind.LEARNED_1D: {At.STEM: 64.206, At.EVERY: 63.964, At.SHARED: 64.292},
    Kind.LEARNED_2D: {At.STEM: 64.001, At.EVERY: 64.046, At.SHARED: 64.022},
    Kind.RELATIVE: {At.STEM: 64.032},
}
_KINDS = {
    Kind.NOWHERE: "none",
    Kind.LEARNED_1D: "1d",
    Kind.LEARNED_2D: "2d",
    Kind.RELATIVE: "relative",
}
_PLACES = {
    At.STEM: "once, after the patches",
    At.EVERY: "before each block, learned for each",
    At.SHARED: "before each block, the same",
}


def _name(kind: Kind, at: At) -> str:
    return _KINDS[kind] + ("" if at is At.STEM else f"_{at.value}")


CELLS = table.cells(
    *(
        table.Cell(
            _name(kind, at),
            functools.partial(pretrain, kind=kind, at=at),
            seeds=small.seeds(3 if at is At.STEM else 2, paper=1),
            paper={"imagenet2012/validation/5shot": number},
            note="no positions" if kind is Kind.NOWHERE else _PLACES[at],
        )
        for kind, places in _PAPER.items()
        for at, number in places.items()
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
    """The config of a cell: 'none', '1d', '1d_every', ..., and a scale."""
    return table.select(CELLS, argument, TABLE.scales)
