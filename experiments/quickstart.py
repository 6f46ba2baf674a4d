"""Does pre-training on drawn shapes help a small ViT to read handwritten digits?

The paper's story in minutes on two cores: pre-train, then fine-tune at twice the
resolution with a new zero-initialised head and resized position embeddings, and
train the same model from scratch for the same steps beside it. All data is made
or shipped here, nothing is downloaded.

`make demo` runs the three cells and writes the page. Only the runs, or by hand:

    python -m tools.run_experiment --experiment=experiments/quickstart.py

    python -m tools.train --config=experiments/quickstart.py:pretrain \
        --workdir=runs/pretrain
    python -m tools.train --config=experiments/quickstart.py:finetune \
        --config.start_from=runs/pretrain --workdir=runs/finetune
    python -m tools.train --config=experiments/quickstart.py:scratch \
        --workdir=runs/scratch
"""

from vit_tf import config
from vit_tf.studies import experiment_spec


def _model(**changes) -> config.Model:
    # Sizes that two cores train in minutes; everything else as in ViT-Ti.
    return config.Model(
        variant="ViT-Ti/8", depth=4, width=128, mlp_dim=256, num_heads=4, **changes
    )


def pretrain(scale: experiment_spec.Scale) -> config.Config:
    """Shapes at 32 pixels, 4 x 4 patches."""
    small = scale == experiment_spec.Scale.SMALL
    return config.Config(
        model=_model(pre_logits=True),
        data=config.Data(
            name="shapes",
            image_size=32,
            batch_size=32,
            min_crop_area=0.7,  # less would cut off a part of many shapes
        ),
        optim=config.Optim(
            lr=1e-3,
            schedule=config.Schedule.LINEAR,
            warmup_steps=200 if small else 2,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=5000 if small else 4,
            log_every_steps=50 if small else 2,
            checkpoint_every_steps=1000 if small else 2,
        ),
        evals=config.Evals(splits=("test",)),
    )


def finetune(scale: experiment_spec.Scale) -> config.Config:
    """Digits at 64 pixels, 8 x 8 patches, as Table 4; needs start_from."""
    small = scale == experiment_spec.Scale.SMALL
    return config.Config(
        model=_model(),
        data=config.Data(
            name="digits",
            image_size=64,
            batch_size=32,
            crop=config.Crop.RANDOM,
            flip=False,  # a mirrored 2 is no digit
        ),
        optim=config.Optim(
            rule=config.Rule.SGD,
            lr=0.06,
            schedule=config.Schedule.COSINE,
            warmup_steps=50 if small else 1,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=400 if small else 2,
            log_every_steps=5 if small else 1,
            checkpoint_every_steps=200 if small else 1,
        ),
        evals=config.Evals(splits=("test",)),
    )


# From scratch is the same cell without a start: what differs is the start.
CELLS = experiment_spec.cells(
    experiment_spec.Cell(
        "pretrain", pretrain, note="pre-trained on shapes; accuracy on shapes"
    ),
    experiment_spec.Cell(
        "finetune",
        finetune,
        starts_from="pretrain",
        note="digits, from the weights pre-trained on shapes",
    ),
    experiment_spec.Cell(
        "scratch", finetune, note="digits, the same steps from random weights"
    ),
)
TABLE = experiment_spec.Table(
    columns={"test/accuracy": "accuracy [%]", "test/loss": "loss"}
)


def get_config(argument: str | None = None) -> config.Config:
    """The config of a cell: 'pretrain', 'finetune' or 'scratch', and a scale."""
    return experiment_spec.select(CELLS, argument)
