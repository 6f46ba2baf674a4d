"""Which way should a ViT grow: depth, width, its hidden layers, or smaller patches?

The paper's Figure 8 (appendix D.2): from 8 blocks of width 1024 with hidden layers of
2048 and patches of 32, one size changes at a time, or all together. Depth helps most,
up to 64 blocks and little beyond 16; width helps least; smaller patches help without
more parameters. The values along each line are not in the paper.

Scale `small` starts from 4 blocks of width 64 with hidden layers of 128 and patches of
9 in images of 36 pixels, on CIFAR-10 (experiments/small.py).

Scale `paper`: 18 runs, 9,320,796 steps, 3,232 exaFLOPs, 1,521 TPUv3-core-days at 40 %
utilisation.

    python -m tools.run_experiment --experiment=experiments/figure8_shape.py --record
"""

import functools

from experiments import small
from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = small.FEW_SHOT

# Line -> the factors of its points. The base, where all lines meet, is a cell of its
# own. A factor of patches is of their number along one side.
SMALL = {
    "depth": (0.5, 2),
    "width": (0.5, 2),
    "mlp": (0.5, 2),
    "patch": (0.5, 0.75, 1.5),
    "all": (0.5, 2),
}
PAPER = {
    "depth": (0.25, 0.5, 2, 4, 8),
    "width": (0.25, 0.5, 2),
    "mlp": (0.25, 0.5, 2, 4),
    "patch": (0.5, 2, 4),
    "all": (0.5, 2),
}


def model(scale: experiment_spec.Scale, line: str, factor: float) -> config.Model:
    """Scales the base by the sizes of a line times a factor; heads of 64, small: 32."""
    paper = scale == experiment_spec.Scale.PAPER
    depth, width, mlp_dim, patches = (8, 1024, 2048, 8) if paper else (4, 64, 128, 4)
    if line in ("depth", "all"):
        depth = round(depth * factor)
    if line in ("width", "all"):
        width = round(width * factor)
    if line in ("mlp", "all"):
        mlp_dim = round(mlp_dim * factor)
    if line == "patch":  # "all" leaves them
        patches = round(patches * factor)
    return config.Model(
        variant=f"ViT-L/{image_size(scale) // patches}",
        depth=depth,
        width=width,
        mlp_dim=mlp_dim,
        num_heads=width // (64 if paper else 32),
        pre_logits=paper,
        head_bias=-10.0 if paper else 0.0,
    )


def image_size(scale: experiment_spec.Scale) -> int:
    """Pixels; of 256 a patch of 64 is a whole part, of the usual 224 it is not."""
    return 256 if scale == experiment_spec.Scale.PAPER else 36


def pretrain(
    scale: experiment_spec.Scale, *, line: str = "", factor: float = 1
) -> config.Config:
    """Pre-trains as Table 3 on JFT-300M the base or a point of a line."""
    cfg = paper.pretrain("ViT-B/32", "jft300m", few_shot=True)
    if scale != experiment_spec.Scale.PAPER:
        cfg.optim.lr = 1e-3
        cfg = small.pretrain(cfg, scale)
    cfg.model = model(scale, line, factor)
    cfg.data.image_size = image_size(scale)
    return cfg


CELLS = experiment_spec.cells(
    experiment_spec.Cell(
        "base",
        pretrain,
        seeds=small.seeds(2, paper=1),
        note="where all lines meet",
    ),
    *(
        experiment_spec.Cell(
            f"{line}_{factor * 100:g}",
            functools.partial(pretrain, line=line, factor=factor),
            seeds=small.seeds(
                2 * (factor in SMALL[line]), paper=int(factor in PAPER[line])
            ),
            note=f"{factor:g} times the patches along a side"
            if line == "patch"
            else f"{factor:g} times the base's",
        )
        for line in SMALL
        for factor in sorted({*SMALL[line], *PAPER[line]})
    ),
)

TABLE = experiment_spec.Table(
    small.COLUMNS,
    scales=tuple(experiment_spec.Scale),
)


_LEGEND = {
    "all": "All",
    "depth": "Depth",
    "patch": "Patch size",
    "mlp": "Width (MLP)",
    "width": "Width",
}


def _points(line: str) -> list[experiment_spec.Point]:
    """Lists the points of a line from small to large, the base at its place."""
    factors = sorted({1, *SMALL[line], *PAPER[line]})
    cells = (
        "base" if factor == 1 else f"{line}_{factor * 100:g}" for factor in factors
    )
    return [experiment_spec.Point([cell]) for cell in cells]


PLOTS = (
    experiment_spec.Plot(
        "Figure 8",
        {legend: _points(line) for line, legend in _LEGEND.items()},
        {
            experiment_spec.Scale.SMALL: METRIC,
            experiment_spec.Scale.PAPER: small.IMAGENET,
        },
        x="Relative compute",
        y="ImageNet 5-shot [%]",
        across=experiment_spec.X.COMPUTE,
        log=True,
        relative_to="base",
    ),
)

FINDINGS = """
In 300 steps width and smaller patches help most: of the six known kinds, twice the width
tells {width_200 minus base:test/accuracy} points more than the base, half of it
{width_50 minus base:test/accuracy}; one and a half times the patches along a side
{patch_150 minus base:test/accuracy}, half of them {patch_50 minus base:test/accuracy}.
Twice the depth gives {depth_200 minus base:test/accuracy}, half of it
{depth_50 minus base:test/accuracy}; twice the hidden layers
{mlp_200 minus base:test/accuracy}; everything twice
{all_200 minus base:test/accuracy}. Smaller patches help without more parameters, as in the
paper. Depth, which helps most there, does not here, and width does: deep models have not
begun to use their blocks after so few steps. Two runs of a cell differ by up to almost two
points, so that less than that may be chance: depth and hidden layers show nothing here. What
this cannot say is what would remain after long training.
"""


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'base', 'depth_200' (percent), ..., and a scale."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
