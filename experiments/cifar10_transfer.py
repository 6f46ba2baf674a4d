"""Does pre-training on six kinds of photographs help to tell four others from a few?

A small ViT is pre-trained on CIFAR-10's airplanes, automobiles, birds, cats, deer and
dogs; then frogs, horses, ships and trucks are told apart from 10 or 100 images each,
fine-tuned from those weights or trained from scratch on the same images for as long.
Pre-training also reports the linear few-shot accuracy on the new kinds. Both sets are
folders with CIFAR-10's images, train/CLASS/... and test/CLASS/...:

    python -m tools.prepare_data --folder=known --name=cifar10_known
    python -m tools.prepare_data --folder=new --name=cifar10_new
    python -m tools.run_experiment --experiment=experiments/cifar10_transfer.py
"""

import functools

from vit_tf import config
from vit_tf.studies import experiment_spec

# Four of CIFAR-10's ten kinds are new; every one has 5,000 training images.
KNOWN, NEW = "cifar10_known", "cifar10_new"


def _model() -> config.Model:
    # Sizes that two cores train in minutes; patches of 4 at 32 pixels, mean pooling.
    return config.Model(
        variant="ViT-Ti/4",
        depth=6,
        width=128,
        mlp_dim=256,
        num_heads=4,
        pool=config.Pool.GAP,
    )


def pretrain(scale: experiment_spec.Scale) -> config.Config:
    """Pre-trains for six epochs of 30,000 images, as experiments/cifar10_small.py."""
    small = scale == experiment_spec.Scale.SMALL
    return config.Config(
        model=_model(),
        data=config.Data(name=KNOWN, image_size=32, batch_size=128, min_crop_area=0.3),
        optim=config.Optim(
            lr=1e-3,
            warmup_steps=200 if small else 1,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=6 if small else 2,
            unit=config.Unit.EPOCHS if small else config.Unit.STEPS,
            log_every_steps=50 if small else 1,
            checkpoint_every_steps=500 if small else 1,
        ),
        evals=config.Evals(
            splits=("test",),
            few_shot=config.FewShot(
                datasets=(NEW,) if small else (), shots=(1, 5, 10, 25, 100)
            ),
        ),
    )


def few(shots: int, scale: experiment_spec.Scale) -> config.Config:
    """Fine-tunes as Table 4 on so many images of each new kind."""
    small = scale == experiment_spec.Scale.SMALL
    return config.Config(
        model=_model(),
        data=config.Data(
            name=NEW,
            subset=config.Subset(amount=shots, unit=config.Keep.SHOTS),
            image_size=32,
            batch_size=64,
            min_crop_area=0.3,
        ),
        optim=config.Optim(
            rule=config.Rule.SGD,
            lr=0.03,
            warmup_steps=30 if small else 1,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=300 if small else 2,
            log_every_steps=10 if small else 1,
            checkpoint_every_steps=100 if small else 1,
        ),
        evals=config.Evals(splits=("test",)),
    )


_REPEATED = {experiment_spec.Scale.SMOKE: 1, experiment_spec.Scale.SMALL: 3}

CELLS = experiment_spec.cells(
    experiment_spec.Cell(
        "pretrain", pretrain, note="six known kinds; few-shot is on the four new ones"
    ),
    *(
        experiment_spec.Cell(
            f"{start}_{shots}",
            functools.partial(few, shots),
            starts_from="pretrain" if start == "finetune" else None,
            seeds=_REPEATED,
            note=f"{shots} images of each new kind, drawn anew for each seed",
        )
        for shots in (10, 100)
        for start in ("finetune", "scratch")
    ),
)

TABLE = experiment_spec.Table(
    {
        "test/accuracy": "test accuracy [%]",
        f"{NEW}/test/10shot": "linear 10-shot [%]",
        f"{NEW}/test/100shot": "linear 100-shot [%]",
    }
)


def get_config(argument: str | None = None) -> config.Config:
    """Returns the config of a cell: 'pretrain', 'finetune_10',
    'scratch_10', ..., and a scale.
    """
    return experiment_spec.select(CELLS, argument)
