"""What does a ViT lose without position embeddings, and does their kind matter?

The paper's Table 8 (appendix D.4): ViT-B/16, linear 5-shot accuracy on ImageNet. None
of the kinds with positions is better than another, nor is any place to put them in;
without, 3 % are lost.

Scale `small` has 16 patches of 8 pixels instead of 196 of 16, four blocks instead of
twelve, and asks about four kinds of CIFAR-10 after learning six (experiments/small.py).

Scale `paper`: 7 runs, 3,624,754 steps, 1,574 exaFLOPs, 740 TPUv3-core-days at 40 %
utilisation. Not counted: 1 run shared with other experiments, 224 exaFLOPs.

    python -m tools.run_experiment --experiment=experiments/table8_positions.py --record
"""

import functools

from experiments import small
from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = small.FEW_SHOT
FIVE_SHOT = small.FIVE_SHOT

Kind = config.Positions
At = config.PositionsAt


def pretrain(
    scale: experiment_spec.Scale, *, kind: Kind, at: At = At.STEM
) -> config.Config:
    """Pre-trains as Table 3 on JFT-300M, with positions of a kind, put in at a place."""
    cfg = paper.pretrain("ViT-B/16", "jft300m", few_shot=True)
    if scale != experiment_spec.Scale.PAPER:
        cfg.model = small.model()
        cfg.optim.lr = 1e-3
        cfg = small.pretrain(cfg, scale, steps=1500)
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


CELLS = experiment_spec.cells(
    *(
        experiment_spec.Cell(
            _name(kind, at),
            functools.partial(pretrain, kind=kind, at=at),
            seeds=small.seeds(2, paper=1),
            same_as="table6_scaling:ViT-B-16_7" if _name(kind, at) == "1d" else None,
            paper={small.IMAGENET: number},
            note="no positions" if kind is Kind.NOWHERE else _PLACES[at],
        )
        for kind, places in _PAPER.items()
        for at, number in places.items()
    )
)

TABLE = experiment_spec.Table(
    small.COLUMNS | small.FIVE_SHOT_COLUMN,
    scales=tuple(experiment_spec.Scale),
)


# The paper's words for what varies, in its order.
_AXIS = {
    Kind.NOWHERE: "no pos. emb.",
    Kind.LEARNED_1D: "1-D",
    Kind.LEARNED_2D: "2-D",
    Kind.RELATIVE: "relative",
}
_LEGEND = {
    At.STEM: "default/stem",
    At.EVERY: "every layer",
    At.SHARED: "every layer, shared",
}

PLOTS = (
    experiment_spec.Plot(
        "Table 8",
        {
            legend: [
                experiment_spec.Point([_name(kind, at)], _AXIS[kind])
                for kind, places in _PAPER.items()
                if at in places
            ]
            for at, legend in _LEGEND.items()
        },
        {
            experiment_spec.Scale.SMALL: METRIC,
            experiment_spec.Scale.PAPER: small.IMAGENET,
        },
        x="Position embedding",
        y="ImageNet 5-shot linear [%]",
        across=experiment_spec.X.PLACE,
        places=tuple(_AXIS.values()),
        joined=False,
    ),
)

FINDINGS = f"""
Positions help, and their kind matters little: the paper's Table 8. Of the six known kinds,
one table added once tells {{1d minus none:test/accuracy}} points more than no positions, two
tables {{2d minus none:test/accuracy}}, relative ones {{relative minus none:test/accuracy}}; of
the four new kinds, from 100 images of each, {{1d minus none:{METRIC}}},
{{2d minus none:{METRIC}}} and {{relative minus none:{METRIC}}}. The paper's gap is
{{paper 1d minus none:{small.IMAGENET}}} points. Tables before each block instead of once
change {{1d_every minus 1d:test/accuracy}} points of one table and
{{2d_every minus 2d:test/accuracy}} of two on the known kinds, the same before all blocks
{{1d_shared minus 1d:test/accuracy}} and {{2d_shared minus 2d:test/accuracy}}; two runs of a cell
may differ by more than two points, so the order of the kinds that have positions is chance.
From 5 images of each new kind, which is nearest to the paper's measure, one table gives
{{1d minus none:{FIVE_SHOT}}} against none, two {{2d minus none:{FIVE_SHOT}}} and relative ones
{{relative minus none:{FIVE_SHOT}}}: no gain is seen there. What this
cannot say is how it is with 196 patches instead of 16, where there is more to know about
places.
"""


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'none', '1d', '1d_every', ..., and a scale."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
