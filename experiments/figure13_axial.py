"""What does attention along rows and columns cost, and gain?

The paper's Figure 13 (appendix D.6): axial models split every block into one that
attends along rows and one along columns; AxialResNet50 does so in place of ResNet50's 3
x 3 convolutions. Pre-trained on JFT-300M for seven epochs as their plain twins
(experiments/table6_scaling.py) and judged by the linear 5-shot accuracy on ImageNet.
The paper has no numbers but a figure, from the top: Axial-ViT-B/16 (about 65 %),
ViT-B/16, Axial-ViT-B/32, ViT-B/32, AxialResNet50, ResNet50 (about 50 %). Each axial
model is better than its twin and costs more, AxialResNet50 so much more that the paper
calls it slow.

The figure's axes are total compute, which `python -m tools.plan` prints for each run, and
images per second, which `python -m tools.benchmark --what=model` measures.

The paper does not say what becomes of the class token in axial models: here there is
none, and the mean over all places is the image. Nor does it say how they were trained:
here as their twins.

There is no scale `small`: what is compared is speed on a TPU. `smoke` is two steps of
everything.

Scale `paper`: 3 runs, 1,553,466 steps, 586 exaFLOPs, 275 TPUv3-core-days at 40 %
utilisation. Not counted: 3 runs shared with other experiments, 330 exaFLOPs.

    python -m tools.run_experiment --scale=paper \
        --experiment=experiments/figure13_axial.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "imagenet2012/validation/5shot"

# Axial model -> its twin, whose recipe it takes.
TWINS = {
    "Axial-ViT-B/16": "ViT-B/16",
    "Axial-ViT-B/32": "ViT-B/32",
    "AxialResNet50": "R50x1",
}


def _pretrain(variant: str) -> config.Config:
    """Pre-trains as Table 3 on JFT-300M; an axial model as its plain twin."""
    twin = TWINS.get(variant, variant)
    cfg = paper.pretrain(twin, "jft300m", epochs=7, few_shot=True)
    cfg.model.variant = variant
    return cfg


CELLS = experiment_spec.cells(
    *(
        experiment_spec.Cell(
            experiment_spec.named(variant),
            experiment_spec.of_recipe(_pretrain, variant),
            same_as=None
            if variant in TWINS
            else f"table6_scaling:{experiment_spec.named(variant, '7')}",
            note=note,
        )
        for axial, twin in TWINS.items()
        for variant, note in ((axial, f"axial twin of {twin}"), (twin, "plain"))
    )
)

TABLE = experiment_spec.Table(
    {METRIC: "ImageNet 5-shot [%]", "accuracy": "JFT-300M accuracy [%]"},
    scales=experiment_spec.WITHOUT_SMALL,
)


PLOTS = (
    experiment_spec.Plot(
        "Figure 13, left",
        {
            variant: [experiment_spec.Point([experiment_spec.named(variant)])]
            for pair in TWINS.items()
            for variant in pair
        },
        METRIC,
        x="Total compute [exaFLOPs]",
        y="ImageNet 5-shot linear top-1 accuracy",
        across=experiment_spec.X.COMPUTE,
        log=True,
    ),
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'Axial-ViT-B-16', 'ViT-B-16', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
