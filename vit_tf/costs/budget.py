"""Estimates what a run costs before it starts: steps, exaFLOPs, days, bytes.

Only training is counted, pre-training or fine-tuning. Evaluations, few-shot classifiers,
figures, the second forward pass of `model.remat`, start-up and waiting for data or for
other hosts are not.
"""

import dataclasses
import functools
import math
from typing import Any

import tensorflow_datasets as tfds

from vit_tf import config, config_values, errors
from vit_tf.costs import accelerators, flops
from vit_tf.data import catalog, mixture, record_store, subsets
from vit_tf.data.builders import shapes
from vit_tf.models import build
from vit_tf.models import network as networks
from vit_tf.objectives import patch_colors
from vit_tf.runtime import timing

_SECONDS = 86_400  # of a day
_FLOAT32 = 4  # bytes

# Table 2's TPUv3-core-days, and the exaFLOPs of the same pre-training: of JFT-300M
# Table 6's; of ImageNet-21k's 90 epochs (Table 3) what these images are of JFT's.
PAPER_RUNS = {
    "ViT-H/14, JFT-300M": (2500, 4262.0),
    "ViT-L/16, JFT-300M": (680, 1567.0),
    "ViT-L/16, ImageNet-21k": (
        230,
        1567.0 * (90 * 14_197_122) / (14 * flops.JFT_IMAGES),
    ),
}


def _utilisation(core_days: float, exaflops: float) -> float:
    """Returns the share of the device's peak that a run used."""
    peak = accelerators.TPU_V3_CORE.tflops * 1e12 * _SECONDS * core_days
    return exaflops * 1e18 / peak


# What the paper reached, by run: 0.32, 0.43 and 0.39 of a TPU v3's peak.
PAPER_UTILISATION = {name: _utilisation(*of) for name, of in PAPER_RUNS.items()}
# The one in the middle, which gives each of the three within 20 % of Table 2.
UTILISATION = sorted(PAPER_UTILISATION.values())[1]


@dataclasses.dataclass(frozen=True)
class Facts:
    """Sizes of a data set, which need not be prepared on this machine.

    Attributes:
        counts: examples of each split.
        num_classes: of its labels.
        image_bytes: mean size of an encoded image with its label; None: not known.
        source: where these numbers come from.
    """

    counts: dict[str, int]
    num_classes: int
    image_bytes: float | None
    source: str


# Sets of the paper whose sizes are not in TFDS' catalogue, and so not in `catalog`.
# ImageNet-21k's release is one split, `full`.
_PUBLISHED = {
    "imagenet21k": Facts(
        {"full": 14_197_122},
        21_843,
        None,
        "release fall11, 21,843 classes as in the authors' code",
    ),
    "jft300m": Facts(
        {"train": flops.JFT_IMAGES}, 18_291, None, "ViT section 4.1, BiT section 3.1"
    ),
    "shapes": Facts(shapes.SPLIT_SIZES, len(shapes.FORMS), None, "its builder"),
}

# Bytes of an image: ILSVRC2012_img_train.tar over its images; TFDS' catalogue.
_IMAGE_BYTES = {
    "imagenet2012": 147_897_477_120 / 1_281_167,
    "imagenet2012_10pct": 147_897_477_120 / 1_281_167,
    "cifar10": 132.40 * 2**20 / 60_000,
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """The cost of one run.

    Attributes:
        dataset: data.name.
        examples: in one epoch.
        source: where their number comes from.
        parameters: of the model, with the head of the data's classes.
        steps: of training.
        images: seen in training, repetitions counted.
        exaflops: 10^18 operations, as the paper's Table 6 counts them.
        checkpoint_bytes: of one: weights, moments, Polyak average.
        kept_checkpoints: in the run's folder at its end, at most; one more exists
            while it is written.
        kept_bytes: of those and of the final weights.
        epoch_bytes: read in one epoch; None: the size of the images is not known.
        read_bytes: read in the whole run; small sets are read once.
    """

    dataset: str
    examples: int
    source: str
    parameters: int
    steps: int
    images: int
    exaflops: float
    checkpoint_bytes: int
    kept_checkpoints: int
    kept_bytes: int
    epoch_bytes: float | None
    read_bytes: float | None

    def days(self, device: accelerators.Device, utilisation: float) -> float:
        """Returns days of training on a device.

        Args:
            device: its peak counts.
            utilisation: share of that peak that is reached, in (0, 1].
        """
        return self.exaflops * 1e6 / (device.tflops * utilisation * _SECONDS)

    def core_days(self, utilisation: float) -> float:
        """Returns TPUv3-core-days, the unit of the paper's Table 2."""
        return self.days(accelerators.TPU_V3_CORE, utilisation)


def estimate(
    cfg: config.Config,
    *,
    data_dir: str | None = None,
    num_examples: int | None = None,
    num_classes: int | None = None,
) -> Budget:
    """Estimates the budget of a run; allocates no weights and reads no image.

    Args:
        cfg: the run.
        data_dir: where prepared data sets lie; sets that are there are counted, others
            have the numbers of their catalogue or publication.
        num_examples: in an epoch, before `data.subset`; None: as above.
        num_classes: of the labels; None: as above.

    Raises:
        errors.UserError: a data set or split whose size is not known; a model that
            `build.build` refuses.
    """
    sets = [
        (facts, _count(name, facts, cfg.data, num_examples))
        for name in mixture.weights_of(cfg.data.name)
        for facts in [_facts(name, data_dir, num_examples, num_classes)]
    ]
    first, examples = sets[0][0], sum(count for _, count in sets)
    labelled = cfg.objective.task is config.Task.CLASSIFICATION
    network = _outline(
        tuple(config_values.fields(cfg.model).items()),
        first.num_classes if labelled else 0,
        cfg.data.image_size,
    )
    steps = timing.num_steps(
        cfg.train, batch_size=cfg.data.batch_size, num_examples=examples
    )
    images = steps * cfg.data.batch_size
    parameters = sum(math.prod(w.shape) for w in network.weights)
    owned = _owned(cfg.objective, network)
    one = _checkpoint_bytes(cfg, network, owned)
    kept = len(kept_steps(cfg.train, steps))
    epoch_bytes = _total([f.image_bytes and n * f.image_bytes for f, n in sets])
    return Budget(
        dataset=cfg.data.name,
        examples=examples,
        source="; ".join(dict.fromkeys(facts.source for facts, _ in sets)),
        parameters=parameters,
        steps=steps,
        images=images,
        exaflops=flops.exaflops(flops.forward_macs(network), images=images),
        checkpoint_bytes=one,
        kept_checkpoints=kept,
        kept_bytes=kept * one + _FLOAT32 * (parameters + owned),
        epoch_bytes=epoch_bytes,
        read_bytes=_read(epoch_bytes, epochs=images / examples),
    )


@functools.lru_cache(maxsize=32)
def _outline(
    fields: tuple[tuple[str, Any], ...], num_classes: int, image_size: int
) -> networks.Network:
    """Builds the network of `config.Model(**fields)`, which many cells share."""
    return build.outline(
        config.Model(**dict(fields)), num_classes=num_classes, image_size=image_size
    )


def kept_steps(train: config.Train, total: int) -> list[int]:
    """Returns the steps whose checkpoints a finished run of
    `total` steps keeps, at most.
    """
    saved = [*range(train.checkpoint_every_steps, total, train.checkpoint_every_steps)]
    saved.append(total)
    kept = set(saved[-train.keep_checkpoints :])
    if train.keep_every_steps:
        kept |= {step for step in saved if step % train.keep_every_steps == 0}
    others = [step for step in saved if step not in kept]
    if train.keep_best and others:
        kept.add(others[-1])  # the best may be any other; its size is the same
    return sorted(kept)


def _checkpoint_bytes(cfg: config.Config, network: networks.Network, owned: int) -> int:
    """Returns the bytes of the arrays; TensorFlow's index adds some 300 bytes for each."""
    trained = owned + sum(math.prod(w.shape) for w in network.trainable_variables)
    stored = owned + sum(math.prod(w.shape) for w in network.variables)
    short = cfg.optim.moment_dtype is config.GradientDtype.BFLOAT16
    slots = 2 if short else _FLOAT32  # Adam's first moment, or momentum's trace
    if cfg.optim.rule is config.Rule.ADAM:
        slots += _FLOAT32
    if cfg.optim.polyak is not None:
        slots += _FLOAT32
    return _FLOAT32 * stored + slots * trained


def _owned(objective: config.Objective, network: networks.Network) -> int:
    """Returns the number of the objective's own variables' elements (masked_patches)."""
    if objective.task is config.Task.CLASSIFICATION:
        return 0
    classes = patch_colors.NUM_CLASSES
    outputs = {
        config.Target.MEAN_COLOR: classes,
        config.Target.SHRUNK_COLORS: 16 * classes,
        config.Target.PIXELS: 3 * network.token_stride**2,
    }[objective.target]
    return network.width + (network.width + 1) * outputs


def _facts(
    name: str,
    data_dir: str | None,
    num_examples: int | None,
    num_classes: int | None,
) -> Facts:
    """Returns sizes as prepared here, else as published, else as the caller gives."""
    if num_examples is not None and num_classes is not None:
        return Facts({}, num_classes, None, "as given")
    try:
        return _prepared(name, data_dir)
    except errors.UserError as refusal:
        missing = refusal
    facts, row = _PUBLISHED.get(name), catalog.DATASETS.get(name)
    if facts is None and row is not None and row.counts:
        catalogue = "TFDS' catalogue"
        facts = Facts(
            dict(row.counts), row.num_classes, _IMAGE_BYTES.get(name), catalogue
        )
    if facts is None:
        raise errors.UserError(
            f"{missing}; or say what it holds: num_examples=N and num_classes=N"
        )
    changes = {} if num_classes is None else {"num_classes": num_classes}
    return dataclasses.replace(facts, **changes)


def _prepared(name: str, data_dir: str | None) -> Facts:
    """Returns the sizes of a data set that is prepared here."""
    source = catalog.open_source(name, data_dir=data_dir)
    splits = source.builder.info.splits
    total = sum(info.num_examples for info in splits.values())
    size = sum(info.num_bytes for info in splits.values())
    return Facts(
        {key: info.num_examples for key, info in splits.items()},
        source.num_classes,
        size / total,
        f"{name} {source.version} as prepared here",
    )


def _count(name: str, facts: Facts, data: config.Data, given: int | None) -> int:
    """Returns the examples of an epoch: those of the split, or of its subset."""
    total = given if given is not None else _split(name, facts, data.split)
    classes = facts.num_classes
    return subsets.size(
        data.subset, total=total, num_classes=classes, split=f"{name}/{data.split}"
    )


def _split(name: str, facts: Facts, expression: str) -> int:
    """Returns the examples of a split such as train[:98%], as TFDS counts them."""
    splits = tfds.core.splits
    known = splits.SplitDict(
        [
            splits.SplitInfo(
                name=split,
                shard_lengths=[number],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    dataset_name=split, data_dir=".", filetype_suffix="tfrecord"
                ),
            )
            for split, number in facts.counts.items()
        ]
    )
    try:
        return known[expression].num_examples
    except (ValueError, KeyError, AssertionError) as error:
        listed = ", ".join(f"{k} ({n:,})" for k, n in facts.counts.items())
        reason = str(error).splitlines()[0]
        raise errors.UserError(
            f"{name}: no split {expression!r} ({reason}); known are: {listed}"
        ) from None


def _total(sizes: list[float | None]) -> float | None:
    """Returns the sum; None where a size is not known."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _read(epoch_bytes: float | None, *, epochs: float) -> float | None:
    """Returns the bytes read in a whole run; small sets stay in memory (record_store)."""
    if epoch_bytes is None:
        return None
    fits = epoch_bytes <= record_store.IN_MEMORY_BYTES
    return epoch_bytes * (min(epochs, 1.0) if fits else epochs)
