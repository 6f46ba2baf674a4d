"""Estimates the memory of a step on a host's processors, before anything is made.

A linear model of what is kept: weights with their gradients and moments, and for each
image what the backward pass needs of every block or feature map. Its coefficients were
fitted to peaks of processes that `tools.benchmark --what=footprint` measures
(TensorFlow 2.21, Keras 3.15, two x86 cores, 19 steps of ViT-Ti to B, R50x1 and
R50+ViT-B/16 at 224 and 384 pixels, both precisions): within 10 % of all of them.
On a GPU or a TPU memory is another, and the device says itself when it is full.
"""

import dataclasses
import math
from collections.abc import Mapping

import keras

from vit_tf import config, errors
from vit_tf.costs import flops
from vit_tf.models import bit, build, vit

_MIB = 2**20
_FULL, _HALF = 4, 2  # bytes of float32, and of bfloat16 and float16

# The process before the first array: libraries, thread pools, compiled graphs.
_BASE = 400 * _MIB
# What copies and alignment add to weights, gradients and moments.
_OVERHEAD = 1.05
# Values of a token and block that the backward pass needs, in units of the width and
# of the MLP's hidden width, in the type of the computation; and in float32 besides.
_WIDTHS, _HIDDENS, _FULL_WIDTHS = 17, 4, 4.2
# Copies of the attention weights, which are float32.
_ATTENTIONS = 1.27
# Of the values of a feature map, in the type of the computation and in float32.
_MAPS, _FULL_MAPS = 0.9, 2.7
# With `model.remat` a block is there twice while its gradient is computed.
_AGAIN = 2.5
# Evaluation keeps about this share of one block's values at a time, and its process is
# smaller: within a quarter of the peaks of five forward passes, ViT-Ti/16 and ViT-B/32.
_FORWARD, _FORWARD_BASE = 0.8, 100 * _MIB
# Of the memory that there is, what a batch may take that is cut to fit.
_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class _Image:
    """Bytes that one image needs: of all blocks or maps, and of the largest of them."""

    kept: float
    largest: float


def training_bytes(
    cfg: config.Config, network: keras.Model, *, replicas: int = 1
) -> int:
    """Returns the bytes that a training step takes at its highest.

    Args:
        cfg: the run; its batch, accumulation, precision, optimizer and remat count.
        network: of `build.outline`, whose arrays are never made.
        replicas: virtual devices of one host, which share its memory.
    """
    count = sum(math.prod(weight.shape) for weight in network.trainable_variables)
    copies = 2  # weights and gradients
    short = cfg.optim.moment_dtype is config.GradientDtype.BFLOAT16
    copies += 0.5 if short else 1
    copies += cfg.optim.rule is config.Rule.ADAM
    copies += cfg.optim.polyak is not None
    copies += cfg.train.accumulation > 1  # the sum, beside a part's gradients
    image = _image(network, cfg.train.precision)
    each = image.kept
    if cfg.model.remat and isinstance(network, vit.VisionTransformer):
        inputs = network.num_blocks * network.num_tokens * network.width
        each = inputs * _size(cfg.train.precision) + _AGAIN * image.largest
    pixels = 3 * network.image_size**2 * (1 + _FULL)  # bytes, then float32
    images = cfg.data.batch_size / cfg.train.accumulation
    state = replicas * copies * _FULL * count * _OVERHEAD
    return round(_BASE + state + images * (each + pixels))


def evaluation_bytes(
    network: keras.Model, *, batch_size: int, precision: config.Precision
) -> int:
    """Returns the bytes that a forward pass takes at its highest.

    Args:
        network: of `build.outline`.
        batch_size: images at once, over all devices of the host.
        precision: of the computation.
    """
    count = sum(math.prod(weight.shape) for weight in network.weights)
    pixels = 3 * network.image_size**2 * 2 * _FULL
    each = _FORWARD * _image(network, precision).largest + pixels
    return round(_FORWARD_BASE + _FULL * count * _OVERHEAD + batch_size * each)


def fewest_parts(
    cfg: config.Config, network: keras.Model, *, memory: int, replicas: int = 1
) -> int | None:
    """Returns the smallest `train.accumulation` whose step fits, None if none does.

    The step is the same up to rounding: its parts' gradients are summed. Parts are
    those that the batch can be cut into, of two images at least where pairs are mixed.

    Args:
        cfg: the run; its own accumulation is the least that is returned.
        network: of `build.outline`.
        memory: bytes that the step may take.
        replicas: see `training_bytes`.
    """
    rows = cfg.data.batch_size // replicas
    least = 2 if cfg.data.mixup or cfg.data.cutmix else 1
    for parts in range(cfg.train.accumulation, rows // least + 1):
        if rows % parts or (rows // parts) % least:
            continue
        changed = dataclasses.replace(
            cfg, train=dataclasses.replace(cfg.train, accumulation=parts)
        )
        if training_bytes(changed, network, replicas=replicas) <= memory:
            return parts
    return None


def fit_batches(
    candidates: Mapping[str, config.Config],
    *,
    num_classes: int,
    memory: int | None,
    replicas: int = 1,
) -> str | None:
    """Cuts the batches of runs into parts that the machine's memory holds.

    A run that no cutting makes small enough is left as it is: `check_training` refuses
    it, with what helps.

    Args:
        candidates: the runs, whose `train.accumulation` is set.
        num_classes: of the data.
        memory: bytes that there are, of which others need some too; None: not known,
            and nothing is changed.
        replicas: virtual devices of one host.

    Returns:
        A line that says so; None where nothing had to be changed.
    """
    if memory is None:
        return None
    share, changed = round(_SHARE * memory), []
    for cfg in candidates.values():
        network = build.outline(
            cfg.model, num_classes=num_classes, image_size=cfg.data.image_size
        )
        parts = fewest_parts(cfg, network, memory=share, replicas=replicas)
        if parts is not None and parts != cfg.train.accumulation:
            cfg.train.accumulation = parts
            changed.append(parts)
    if not changed:
        return None
    return (
        f"the batch is taken in {max(changed)} parts (train.accumulation="
        f"{max(changed)}), to stay below {show(share)} of memory; the steps are the same"
    )


def check_training(
    cfg: config.Config, *, num_classes: int, memory: int | None, replicas: int = 1
) -> None:
    """Refuses a step that the machine's memory cannot hold, before it is begun.

    Args:
        cfg: the run.
        num_classes: of the data.
        memory: bytes that there are; None: not known, and nothing is refused.
        replicas: virtual devices of one host.

    Raises:
        errors.UserError: it takes more, with the fields that save memory.
    """
    if memory is None:
        return
    network = build.outline(
        cfg.model, num_classes=num_classes, image_size=cfg.data.image_size
    )
    needed = training_bytes(cfg, network, replicas=replicas)
    if needed <= memory:
        return
    run = (
        f"{cfg.model.variant} at {cfg.data.image_size} pixels with data.batch_size="
        f"{cfg.data.batch_size} and train.accumulation={cfg.train.accumulation}"
    )
    parts = fewest_parts(cfg, network, memory=memory, replicas=replicas)
    if parts is not None:
        remedy = f"set train.accumulation={parts}, which takes the same steps in parts"
    elif not cfg.model.remat:
        remedy = (
            "set model.remat=true and a higher train.accumulation, or a smaller model "
            "or data.image_size"
        )
    else:
        remedy = "take a smaller model or data.image_size"
    raise errors.UserError(
        f"a step of {run} takes about {show(needed)} of memory, and there are "
        f"{show(memory)}: {remedy}"
    )


def check_evaluation(
    network: keras.Model,
    *,
    batch_size: int,
    precision: config.Precision,
    memory: int | None,
) -> None:
    """Refuses a batch of evaluation that the machine's memory cannot hold.

    Raises:
        errors.UserError: it takes more, with the largest batch that does not.
    """
    needed = evaluation_bytes(network, batch_size=batch_size, precision=precision)
    if memory is None or needed <= memory:
        return
    none = evaluation_bytes(network, batch_size=0, precision=precision)
    fits = int((memory - none) / (needed - none) * batch_size)
    remedy = (
        f"take batch_size={fits}, the numbers are the same"
        if fits > 0
        else "take a smaller image size, or a machine with more"
    )
    raise errors.UserError(
        f"batch_size={batch_size}: at {network.image_size} pixels it takes about "
        f"{show(needed)} of memory, and there are {show(memory)}: {remedy}"
    )


def show(count: float) -> str:
    """Returns a number of bytes as people say it: '7.4 GiB'."""
    return f"{count / 2**30:,.1f} GiB"


def _size(precision: config.Precision) -> int:
    return _FULL if precision is config.Precision.FLOAT32 else _HALF


def _image(network: keras.Model, precision: config.Precision) -> _Image:
    size = _size(precision)
    mixed = 0 if size == _FULL else _FULL  # what float32 keeps beside the half type
    by_map = [
        (_MAPS * size + _FULL_MAPS * _FULL) * made.values
        for made in flops.feature_maps(network)
    ]
    if isinstance(network, bit.BiT):
        return _Image(sum(by_map), max(by_map))
    assert isinstance(network, vit.VisionTransformer)
    tokens, width = network.num_tokens, network.width
    seen = network.grid if network.axial else tokens
    block = tokens * size * (_WIDTHS * width + _HIDDENS * network.mlp_dim)
    block += tokens * mixed * _FULL_WIDTHS * width
    block += _ATTENTIONS * network.num_heads * tokens * seen * _FULL
    return _Image(
        sum(by_map) + network.num_blocks * block, max([block, *by_map], default=0)
    )
