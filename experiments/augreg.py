"""What do augmentation and regularisation do for a ViT, and when?

"How to train your ViT?" (arXiv 2106.10270) pre-trains each model 28 times on each data
set: with and without dropout and stochastic depth of 0.1, at seven levels of RandAugment
and mixup, with weight decay of 0.1 and 0.03. Here are

- the released recipes: the nine models with the setting that the authors recommend, on
  ImageNet-21k for 300 epochs, then fine-tuned on ImageNet at 384 and at 224 pixels;
- the grid, of both regularisations and all seven levels at weight decay 0.1, for ViT-B/16
  on ImageNet (300 epochs) and on ImageNet-21k (30 epochs). On ImageNet all train on 99 %
  of the training images, as the authors' config does.

The paper's answer: on ImageNet either helps, and with more compute both are worth as much
as ten times the data; on ImageNet-21k for few epochs they hurt all but the largest
models. It draws the grid in colours, without numbers. For another model or weight decay:

    python -m tools.run_experiment --scale=paper --experiment=experiments/augreg.py \
        --only=grid_imagenet2012_medium1 --folder=runs/grid \
        --config.model.variant=ViT-S/16 --config.optim.weight_decay=0.03

Released files call the levels none, light0, light1, medium1 to strong2; taken to be the
paper's none, light1, light2, medium1 to strong2, as both have seven in this order. The
paper's accuracies are of the checkpoint that was best on held-out data, fine-tuned at
rates of 0.01 and 0.03; the cells take the rate in the name of the recommended file.

There is no scale `small`: at two cores' scale one run more or less regularised says
nothing. `smoke` is two steps of everything.

Scale `paper`: 55 runs, 12,435,758 steps, 4,109 exaFLOPs, 1,933 TPUv3-core-days at 40 %
utilisation.

    python -m tools.run_experiment --scale=paper --experiment=experiments/augreg.py
"""

from vit_tf import config
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

METRIC = "accuracy"

# Models of the authors' list, with the names of their recommended files (README of
# google-research/vision_transformer, "Available ViT models"): level, weight decay,
# whether regularised, rates of fine-tuning at 384 and 224 pixels; and the paper's
# accuracies on ImageNet at 384 and 224 pixels after 300 epochs of ImageNet-21k.
# The list has 384 pixels only. At 224 the rate is that of the file which timm's
# vit_base_patch16_224.augreg_in21k_ft_in1k names for B/16, else the same.
_RELEASED = {
    "ViT-L/16": ("strong1", 0.1, False, (0.01, 0.01), 85.59, 83.98),
    "ViT-B/16": ("medium1", 0.1, False, (0.03, 0.01), 85.49, 83.96),
    "ViT-S/16": ("light2", 0.03, False, (0.03, 0.03), 83.73, 80.46),
    "R50+ViT-L/32": ("medium1", 0.1, True, (0.01, 0.01), 85.99, 82.74),
    "R26+ViT-S/32": ("light2", 0.1, False, (0.01, 0.01), 83.85, 80.81),
    "ViT-Ti/16": ("none", 0.03, False, (0.03, 0.03), 78.22, 73.75),
    "ViT-B/32": ("light2", 0.1, False, (0.01, 0.01), 83.59, 79.13),
    "ViT-S/32": ("none", 0.1, False, (0.01, 0.01), 79.58, 73.47),
    "R+ViT-Ti/16": ("none", 0.03, False, (0.03, 0.03), 75.40, 69.69),
}

# Data of the grid -> epochs.
_GRID = {"imagenet2012": 300, "imagenet21k": 30}


def _finetune(variant: str, lr: float, image_size: int) -> config.Config:
    """Fine-tunes as AugReg: Table 4's, with inception crops."""
    cfg = paper.finetune(
        variant, "imagenet2012", start_from=None, lr=lr, image_size=image_size
    )
    cfg.data.crop = config.Crop.INCEPTION
    # As the authors' fine-tuning (vit_jax/configs/common.py: optim_dtype).
    cfg.optim.moment_dtype = config.GradientDtype.BFLOAT16
    return cfg


def _released(variant: str) -> list[experiment_spec.Cell]:
    """Lists a recommended pre-training, and its two fine-tunings."""
    level, decay, regularised, rates, *accuracies = _RELEASED[variant]
    pretrained = experiment_spec.named(variant)
    strength = "dropout and stochastic depth 0.1" if regularised else "neither"
    made = [
        experiment_spec.Cell(
            pretrained,
            experiment_spec.of_recipe(
                paper.augreg,
                variant,
                "imagenet21k",
                level=level,
                regularised=regularised,
                weight_decay=decay,
            ),
            note=f"ImageNet-21k, 300 epochs: {level}, weight decay {decay}, {strength}",
        )
    ]
    for size, lr, accuracy in zip((384, 224), rates, accuracies):
        made.append(
            experiment_spec.Cell(
                experiment_spec.named(pretrained, str(size)),
                experiment_spec.of_recipe(_finetune, variant, lr, size),
                starts_from=pretrained,
                paper={METRIC: accuracy},
                note=f"ImageNet at {size} pixels, rate {lr}",
            )
        )
    return made


def _grid(data: str, level: str, *, regularised: bool) -> experiment_spec.Cell:
    return experiment_spec.Cell(
        experiment_spec.named("grid", data, level, *(["regularised"] * regularised)),
        experiment_spec.of_recipe(
            paper.augreg,
            "ViT-B/16",
            data,
            level=level,
            regularised=regularised,
            epochs=_GRID[data],
        ),
        note=f"ViT-B/16, {_GRID[data]} epochs, accuracy on what it was trained on",
    )


CELLS = experiment_spec.cells(
    *(cell for variant in _RELEASED for cell in _released(variant)),
    *(
        _grid(data, level, regularised=regularised)
        for data in _GRID
        for regularised in (False, True)
        for level in paper.AUGREG
    ),
)

TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]"}, scales=experiment_spec.WITHOUT_SMALL
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'ViT-B-16', 'ViT-B-16_384',
    'grid_imagenet21k_none', ...
    """
    return experiment_spec.select(CELLS, argument, TABLE.scales)
