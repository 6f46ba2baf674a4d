"""How far does a ViT of two million parameters get on CIFAR-10 in half an hour?

Real photographs, small enough for two CPU cores: patches of 4 at 32 pixels, trained
from scratch. The data is TFDS' cifar10, or any folder of the same images (then add
--config.data.name=NAME):

    python -m tools.prepare_data --dataset=cifar10
    python -m tools.train --config=experiments/cifar10_small.py:vit \
        --workdir=runs/cifar10
"""

from vit_tf import config
from vit_tf.studies import experiment_spec


def vit(scale: experiment_spec.Scale) -> config.Config:
    """Trains with mean pooling, learned positions, inception crop and flip, Adam."""
    small = scale == experiment_spec.Scale.SMALL
    return config.Config(
        model=config.Model(
            variant="ViT-Ti/4", depth=6, mlp_dim=384, pool=config.Pool.GAP
        ),
        data=config.Data(
            name="cifar10", image_size=32, batch_size=128, min_crop_area=0.3
        ),
        optim=config.Optim(
            lr=1e-3,
            schedule=config.Schedule.COSINE,
            warmup_steps=400 if small else 2,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=6 if small else 4,
            unit=config.Unit.EPOCHS if small else config.Unit.STEPS,
            log_every_steps=50 if small else 1,
            checkpoint_every_steps=500 if small else 2,
        ),
        evals=config.Evals(splits=("test",)),
    )


CELLS = experiment_spec.cells(
    experiment_spec.Cell("vit", vit, note="4 x 4 patches, 6 epochs at small")
)
TABLE = experiment_spec.Table(
    columns={"test/accuracy": "accuracy [%]", "test/loss": "loss"}
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'vit', and a scale."""
    return experiment_spec.select(CELLS, argument)
