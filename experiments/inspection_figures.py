"""What has a trained ViT learned to look at?

The trainings behind the paper's Figures 6, 7, 10, 11 and 14, all on JFT-300M; the
figures have no numbers. RUN is the folder of a run below, such as
runs/inspection_figures/paper/ViT-L-16_7_other.seed0, or a released .npz:

- Figure 6 and 14, attention from output to input, of ViT-L/16:

      python -m tools.visualize --checkpoint=RUN --what=rollout --images=PHOTOS

- Figure 7, left and centre, filters and position similarity, of ViT-L/32:

      python -m tools.visualize --checkpoint=RUN --what=filters,position

- Figure 7, right, and Figure 11, mean attention distance, of ViT-L/16 and R50+ViT-L/16,
  of 128 photos:

      python -m tools.visualize --checkpoint=RUN --what=distance --images=PHOTOS

- Figure 10, position similarity of three trainings of ViT-L/16: seven epochs at learning
  rate 2e-4 with weight decay 0.01, seven and fourteen at 4e-4 with 0.1:

      python -m tools.visualize --checkpoint=RUN --what=position

Every run but the first of Figure 10 is one of experiments/table6_scaling.py. The released
ViT-L_16.npz and ViT-L_32.npz (ImageNet-21k) show the same and cost nothing. There is no
scale `small`: training draws these figures of any run with
--config.evals.draw_every_steps=1000. `smoke` is two steps of everything.

Scale `paper`: 1 run, 517,822 steps, 783 exaFLOPs, 369 TPUv3-core-days at 40 %
utilisation. Not counted: 4 runs shared with other experiments, 4,211 exaFLOPs.

    python -m tools.run_experiment --scale=paper \
        --experiment=experiments/inspection_figures.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"


def _figure_10() -> config.Config:
    """Pre-trains as Table 3 on JFT-300M, for Figure 10 alone."""
    cfg = paper.pretrain("ViT-L/16", "jft300m", epochs=7)
    cfg.optim.lr, cfg.optim.weight_decay = 2e-4, 0.01
    return cfg


def _shared(variant: str, epochs: int, figures: str) -> experiment_spec.Cell:
    return experiment_spec.Cell(
        experiment_spec.named(variant, str(epochs)),
        experiment_spec.of_recipe(
            paper.pretrain, variant, "jft300m", epochs=epochs, few_shot=True
        ),
        same_as=f"table6_scaling:{experiment_spec.named(variant, str(epochs))}",
        note=figures,
    )


CELLS = experiment_spec.cells(
    _shared("ViT-L/16", 14, "Figures 6, 7 right, 10, 11 and 14"),
    _shared("ViT-L/32", 7, "Figure 7 left and centre"),
    _shared("R50+ViT-L/16", 14, "Figure 11"),
    _shared("ViT-L/16", 7, "Figure 10"),
    experiment_spec.Cell(
        "ViT-L-16_7_other",
        experiment_spec.of_recipe(_figure_10),
        note="Figure 10: learning rate 2e-4, weight decay 0.01",
    ),
)

TABLE = experiment_spec.Table(
    {METRIC: "JFT-300M accuracy [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'ViT-L-16_14', 'R50+ViT-L-16_14', ..."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
