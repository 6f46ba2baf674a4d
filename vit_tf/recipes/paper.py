"""Recipes of the paper (Tables 3 and 4), AugReg and plain ViT, as Configs.

No TensorFlow import. Numbers are the paper's; where it is silent the choice and
its source stand beside it.
"""

import dataclasses

from vit_tf import config, errors
from vit_tf.data import vtab_splits


@dataclasses.dataclass(frozen=True)
class _Pretraining:
    """A row of Table 3."""

    epochs: int
    lr: float


# Table 3: (data set, model or its size) -> epochs and base learning rate.
# The released ImageNet-21k models of size L were trained for 90 epochs.
# Not in the table: H/14 on ImageNet-21k, which takes the values of L; the 14 epochs that
# R152x2 also has in Table 6, at the same rate (`pretrain`'s `epochs`); and R200x3, which
# takes the rate of the largest hybrids.
_TABLE_3 = {
    ("jft300m", "ViT-B"): _Pretraining(7, 8e-4),
    ("jft300m", "ViT-L/32"): _Pretraining(7, 6e-4),
    ("jft300m", "ViT-L/16"): _Pretraining(14, 4e-4),
    ("jft300m", "ViT-H"): _Pretraining(14, 3e-4),
    ("jft300m", "R50x1"): _Pretraining(7, 1e-3),
    ("jft300m", "R50x2"): _Pretraining(7, 1e-3),
    ("jft300m", "R101x1"): _Pretraining(7, 8e-4),
    ("jft300m", "R152x1"): _Pretraining(7, 6e-4),
    ("jft300m", "R152x2"): _Pretraining(7, 6e-4),
    ("jft300m", "R200x3"): _Pretraining(14, 4e-4),
    ("jft300m", "R50+ViT-B"): _Pretraining(7, 8e-4),
    ("jft300m", "R50+ViT-L/32"): _Pretraining(7, 2e-4),
    ("jft300m", "R50+ViT-L/16"): _Pretraining(14, 4e-4),
    ("imagenet21k", "ViT-B"): _Pretraining(90, 1e-3),
    ("imagenet21k", "ViT-L"): _Pretraining(90, 1e-3),
    ("imagenet21k", "ViT-H"): _Pretraining(90, 1e-3),
    ("imagenet2012", "ViT"): _Pretraining(300, 3e-3),
}

# Table 3's columns that depend on the data set alone. Losses and head biases are
# not in the paper: authors' statements for ImageNet-21k; for ImageNet the later
# public config (-6.9 = -ln 1000), see also section 2.5 of the authors' code.
_PER_DATA_SET = {
    "jft300m": {"decay": 0.1, "dropout": 0.0, "head_bias": -10.0},
    "imagenet21k": {"decay": 0.03, "dropout": 0.1, "head_bias": -10.0},
    "imagenet2012": {"decay": 0.3, "dropout": 0.1, "head_bias": -6.9},
}
# Splits to train on and to report. ImageNet-21k has one split; those of JFT-300M are
# its owner's.
_SPLITS = {
    "jft300m": ("train", "validation"),
    "imagenet21k": ("full[51200:]", "full[:25600]"),
    "imagenet2012": ("train", "validation"),
}

# Table 4: steps and the sweep of base learning rates.
FINETUNING = {
    "imagenet2012": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "oxford_iiit_pet": (500, (0.001, 0.003, 0.01, 0.03)),
    "oxford_flowers102": (500, (0.001, 0.003, 0.01, 0.03)),
}


# Table 2's fine-tuning on ImageNet (section 4.1).
POLYAK = 0.9999

# AugReg's levels of augmentation: RandAugment's layers and magnitude, mixup's p
# (arXiv 2106.10270, section 3.3). light1 is not the identity: see data/randaugment.py.
AUGREG = {
    "none": (0, 0, 0.0),
    "light1": (2, 0, 0.0),
    "light2": (2, 10, 0.2),
    "medium1": (2, 15, 0.2),
    "medium2": (2, 15, 0.5),
    "strong1": (2, 20, 0.5),
    "strong2": (2, 20, 0.8),
}


def pretrain(
    variant: str, dataset: str, *, epochs: int | None = None, few_shot: bool = False
) -> config.Config:
    """Returns the pre-training of `variant` on `dataset` (Table 3, section 4.1).

    Adam, batch 4096, 10k steps of warm-up, 224 pixels, inception crop and flip.
    Linear decay to 1e-5, on ImageNet cosine; the gradient is clipped at global
    norm 1 on ImageNet only. The head has a tanh hidden layer (section 3.1). Moments are
    float32: the paper says nothing else, and its code for pre-training is not public.

    Args:
        variant: a model of Table 3, or of a size that it has.
        dataset: jft300m, imagenet21k or imagenet2012.
        epochs: where Table 3 has two lengths ("7/14"); None takes the longer one.
        few_shot: with the linear 5-shot accuracy on ImageNet (section 4.1).

    Raises:
        errors.UserError: a pair that Table 3 does not have.
    """
    row = _table_3_row(variant, dataset)
    facts = _PER_DATA_SET[dataset]
    split, reported = _SPLITS[dataset]
    imagenet = dataset == "imagenet2012"
    cfg = config.Config(
        model=config.Model(
            variant=variant,
            pre_logits="ViT" in variant,  # ResNets end in one linear layer
            head_bias=facts["head_bias"],
            dropout=facts["dropout"],
        ),
        data=config.Data(
            name=dataset,
            split=split,
            image_size=224,
            batch_size=4096,
            eval_crop=config.EvalCrop.CENTRAL,
        ),
        objective=config.Objective(loss=config.Loss.SIGMOID),
        optim=config.Optim(
            rule=config.Rule.ADAM,
            lr=row.lr,
            schedule=config.Schedule.COSINE if imagenet else config.Schedule.LINEAR,
            warmup_steps=10_000,
            weight_decay=facts["decay"],
            clip_norm=1.0 if imagenet else None,
        ),
        train=config.Train(
            length=epochs or row.epochs,
            unit=config.Unit.EPOCHS,
            precision=config.Precision.MIXED_BFLOAT16,
            steps_per_loop=5,
        ),
        evals=config.Evals(splits=(reported,)),
    )
    if few_shot:
        cfg.evals.few_shot.datasets = ("imagenet2012",)
    return cfg


def pretrain_bit(variant: str, dataset: str, *, epochs: int) -> config.Config:
    """Returns a ResNet's pre-training as in BiT (Table 7; arXiv 1912.11370, 3.3).

    SGD with momentum, 0.03 for each 256 images of a batch, 5,000 steps of warm-up, a
    tenth of the rate at each mark of BiT's 40 epochs, moved to the same shares of
    `epochs`. BiT's decay of 1e-4 is in the gradient, which a momentum of 0.9 sums up
    to ten times as much; decoupled from it, as here and in the authors' later configs
    (3e-5 at a rate of 0.03), that is 1e-3. All else is `pretrain`.
    """
    cfg = pretrain(variant, dataset, epochs=epochs)
    cfg.optim = config.Optim(
        rule=config.Rule.SGD,
        lr=0.03 * cfg.data.batch_size / 256,
        schedule=config.Schedule.STEPS_JFT,
        warmup_steps=5000,
        weight_decay=1e-3,
    )
    return cfg


def masked_patch(
    variant: str = "ViT-B/16",
    dataset: str = "jft300m",
    *,
    target: config.Target = config.Target.MEAN_COLOR,
    corruption: float = 0.5,
    steps: int = 1_000_000,
) -> config.Config:
    """Returns pre-training by masked patch prediction (section 4.6, B.1.2).

    Adam, base learning rate 2e-4, 10k steps of warm-up, cosine decay, batch 4096, half
    of the patches corrupted, their mean 3-bit colours predicted. The paper names
    nothing else: augmentation is that of its supervised pre-training (the authors'
    issue #103), weight decay and the rest are Table 3's for JFT-300M.

    Args:
        dataset: its labels are not read.
        target: the paper tried all three.
        corruption: 0.5; 0.15 was slightly worse.
        steps: a million; beyond 100,000 little more is gained.
    """
    cfg = pretrain("ViT-B/16", "jft300m")
    cfg.model = config.Model(variant=variant)
    cfg.data.name = dataset
    cfg.objective = config.Objective(
        task=config.Task.MASKED_PATCH, target=target, corruption=corruption
    )
    cfg.optim.lr = 2e-4
    cfg.optim.schedule = config.Schedule.COSINE
    cfg.train.unit, cfg.train.length = config.Unit.STEPS, steps
    if target is config.Target.PIXELS:
        cfg.evals.measures = (config.Measure.PIXEL_ERROR, config.Measure.LOSS)
    return cfg


def augreg(
    variant: str,
    dataset: str,
    *,
    level: str,
    regularised: bool = False,
    weight_decay: float = 0.1,
    epochs: int = 300,
) -> config.Config:
    """Returns pre-training as in "How to train your ViT?" (arXiv 2106.10270, 3).

    Adam at 1e-3, batch 4096, 10k steps of warm-up, cosine to 0, clipped at global
    norm 1, 224 pixels, inception crop and flip before RandAugment and mixup. As in the
    authors' public configs (big_vision's vit_i1k.py and vit_i21k.py): the head's hidden
    layer on ImageNet only, 99 % of ImageNet's training images (the rest was to choose
    on), and Adam's first moment stored in bfloat16.

    Three roundings of that code are not copied, because nothing in the paper asks for
    them and they are artefacts of types: optax multiplies such a moment by
    bfloat16(0.9) = 0.8984375, here by 0.9 in float32; resized pixels are cut off to
    bytes, 0.48 levels darker on average, here rounded; and `resize_small` scales sizes
    in float32, so that a few sizes in 100,000 differ by a pixel.

    Args:
        variant: any model.
        dataset: imagenet2012 or imagenet21k.
        level: a key of `AUGREG`.
        regularised: with dropout and stochastic depth of 0.1, or without both.
        weight_decay: 0.1 or 0.03 in the study.
        epochs: 300; on ImageNet-21k 30 or 300.

    Raises:
        errors.UserError: another data set or level.
    """
    datasets = ("imagenet2012", "imagenet21k")
    for name, known in ((dataset, datasets), (level, AUGREG)):
        if name not in known:
            raise errors.UserError(
                f"no AugReg recipe for {name!r}{errors.nearest(name, known)}"
            )
    layers, magnitude, mixup = AUGREG[level]
    strength = 0.1 if regularised else 0.0
    cfg = pretrain("ViT-B/16", dataset)
    cfg.model.variant = variant
    if "ViT" in variant:  # ResNets have neither
        cfg.model.pre_logits = dataset == "imagenet2012"
        cfg.model.dropout = cfg.model.stochastic_depth = strength
    else:
        cfg.model = config.Model(variant=variant, head_bias=cfg.model.head_bias)
    cfg.data.randaug_layers, cfg.data.randaug_magnitude = layers, magnitude
    cfg.data.mixup = mixup
    cfg.optim.lr = 1e-3
    cfg.optim.schedule = config.Schedule.COSINE
    cfg.optim.weight_decay = weight_decay
    cfg.optim.clip_norm = 1.0
    cfg.optim.moment_dtype = config.GradientDtype.BFLOAT16
    cfg.train.length = epochs
    if dataset == "imagenet2012":
        cfg.data.split = "train[:99%]"
    return cfg


def plain_vit(epochs: int = 90) -> config.Config:
    """Returns the recipe of "Better plain ViT baselines for ImageNet-1k".

    arXiv 2205.01580.

    On ImageNet as AugReg does, but for mean pooling, sines and cosines, soft-max loss
    and batch 1024, with RandAugment of 10 and a little mixup.

    Args:
        epochs: 90, 150 or 300 in the report.
    """
    cfg = augreg("ViT-S/16", "imagenet2012", level="light2", epochs=epochs)
    cfg.model.pool = config.Pool.GAP
    cfg.model.positions = config.Positions.SINCOS_2D
    cfg.model.head_bias = 0.0
    cfg.data.batch_size = 1024
    cfg.objective.loss = config.Loss.SOFTMAX
    return cfg


def finetune(
    variant: str,
    dataset: str,
    *,
    start_from: str | None,
    lr: float | None = None,
    image_size: int | None = None,
) -> config.Config:
    """Returns the fine-tuning of `variant` on `dataset` (Table 4, B.1.1).

    SGD with momentum 0.9, batch 512, cosine decay, no weight decay, clipped at
    global norm 1; a zero-initialised linear head. The paper gives no warm-up: the
    authors' code has 500 steps, 100 for the 500-step data sets.

    Momentum is float32. The authors' code stores it in bfloat16, to save memory
    (vit_jax/configs/common.py); the paper does not say so, and 8 bits of precision are
    a loss where the memory is not needed. `optim.moment_dtype` sets it.

    Args:
        variant: any model.
        dataset: a key of `FINETUNING`.
        start_from: weights to start from; None: from scratch.
        lr: one of the sweep in `FINETUNING`; None takes its third value.
        image_size: None takes 384, or the next that the patches divide.

    Raises:
        errors.UserError: a data set that Table 4 does not have.
    """
    if dataset not in FINETUNING:
        raise errors.UserError(
            f"no fine-tuning recipe for {dataset!r}"
            f"{errors.nearest(dataset, FINETUNING)}"
        )
    steps, sweep = FINETUNING[dataset]
    return config.Config(
        model=config.Model(variant=variant),
        data=config.Data(
            name=dataset,
            image_size=image_size or fitting(384, variant),
            batch_size=512,
            crop=config.Crop.RANDOM,
        ),
        optim=config.Optim(
            rule=config.Rule.SGD,
            lr=sweep[2] if lr is None else lr,
            schedule=config.Schedule.COSINE,
            warmup_steps=100 if steps <= 500 else 500,
            clip_norm=1.0,
        ),
        train=config.Train(
            length=steps, precision=config.Precision.MIXED_BFLOAT16, steps_per_loop=5
        ),
        # ImageNet's test labels are not public; all report its validation split.
        evals=config.Evals(
            splits=("validation" if dataset == "imagenet2012" else "test",)
        ),
        start_from=start_from,
    )


def show_larger(cfg: config.Config, variant: str) -> None:
    """Changes a fine-tuning on ImageNet to Table 2's: larger images, averaged weights."""
    cfg.data.image_size = fitting(512, variant)
    cfg.optim.polyak = POLYAK


def fitting(size: int, variant: str) -> int:
    """Rounds pixels up to a multiple of the patch: 392 for H/14
    where the paper has 384.
    """
    _, _, patch = variant.rpartition("/")
    return -(-size // int(patch)) * int(patch) if patch.isdigit() else size


def vtab(variant: str, task: str, *, start_from: str | None) -> config.Config:
    """Returns the fine-tuning of `variant` on a task of VTAB-1k (Table 4, B.1.1).

    One setting for all: 2,500 steps at learning rate 0.01, batch 512, 384 pixels, on
    the 800 + 200 examples, reported on the task's test split. Mirroring and random
    crops are left out where BiT's protocol does. The paper gives no warm-up: 200
    steps, as AugReg has for 2,500.

    Args:
        task: a key of `vtab_splits.TASKS`.

    Raises:
        errors.UserError: no such task.
    """
    if task not in vtab_splits.TASKS:
        raise errors.UserError(
            f"no VTAB task {task!r}{errors.nearest(task, vtab_splits.TASKS)}"
        )
    protocol = vtab_splits.TASKS[task]
    cfg = finetune(variant, "cifar10", start_from=start_from, lr=0.01)
    cfg.data.name = f"vtab/{task}"
    cfg.data.split = protocol.train800val200
    cfg.data.flip = protocol.flip
    if not protocol.crop:
        cfg.data.crop = config.Crop.RESIZE
    cfg.optim.warmup_steps = 200
    cfg.train.length = 2500
    cfg.evals.splits = (protocol.test,)
    return cfg


def _table_3_row(variant: str, dataset: str) -> _Pretraining:
    """Returns the row of Table 3 for a model, by its name or its size's."""
    # 'ViT-L/16' before 'ViT-L' before 'ViT': the table's own order of detail.
    for name in (variant, variant.split("/")[0], variant.split("-")[0]):
        if (dataset, name) in _TABLE_3:
            return _TABLE_3[dataset, name]
    pairs = [f"{name} on {data}" for data, name in _TABLE_3]
    raise errors.UserError(
        f"no pre-training recipe for {variant} on {dataset}; Table 3 has: "
        f"{', '.join(pairs)}"
    )
