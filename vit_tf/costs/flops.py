"""What a model costs: parameters, forward multiply-accumulates, the paper's exaFLOPs.

Counted as the paper's Table 6 must have been, which was found by computing: all
convolutions and matrix products from the image to the last block, of convolutions
only the taps that fall on the image, not on its padding. Norms, softmax, GELU and
the layers after pooling are left out; they are below 1 %.
"""

import dataclasses
import functools
import math

import keras

from vit_tf import config
from vit_tf.models import axial, bit, build, resnet, vit

# JFT-300M, which Table 6's models were trained on.
JFT_IMAGES = 303_000_000

# The backward pass is counted as two forward ones; a multiply-accumulate as two.
_FLOPS_PER_MAC = 3 * 2


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one model at one image size.

    Attributes:
        parameters: with a head of the given classes.
        tokens: that the encoder sees, None for a ResNet.
        macs: multiply-accumulates of one image's forward pass.
    """

    parameters: int
    tokens: int | None
    macs: int


def of(model: config.Model, *, image_size: int = 224, num_classes: int = 1000) -> Cost:
    """Costs of a model whose arrays are never made."""
    network = build.outline(model, num_classes=num_classes, image_size=image_size)
    return Cost(
        parameters=sum(math.prod(weight.shape) for weight in network.weights),
        tokens=getattr(network, "num_tokens", None),
        macs=forward_macs(network),
    )


def exaflops(macs: int, *, images: float) -> float:
    """Training on `images` images (epochs counted), in 10^18 operations (Table 6)."""
    return _FLOPS_PER_MAC * macs * images / 1e18


def forward_macs(network: keras.Model) -> int:
    """Multiply-accumulates of one image's forward pass."""
    return {vit.VisionTransformer: _transformer, bit.BiT: _resnet}[type(network)](
        network
    )


def _transformer(network: vit.VisionTransformer) -> int:
    places = network.grid**2
    tokens, width, hidden = network.num_tokens, network.width, network.mlp_dim
    seen = network.grid if network.axial else tokens  # keys per query
    matrices = 4 * width**2 + 2 * width * hidden
    block = tokens * matrices + 2 * tokens * seen * width
    if network.position_kind is config.Positions.RELATIVE:
        block += tokens * (2 * tokens - 1) * width
    total = places * math.prod(network.embedding.input_axes) * width
    total += network.num_blocks * block
    if network.map_head is not None:
        total += tokens * 2 * width**2 + 2 * tokens * width
        total += 2 * width**2 + 2 * width * hidden
    return total + _stem(network)


def _stem(network: vit.VisionTransformer) -> int:
    if network.stem is None:
        return 0
    root, _, *stages = network.stem_layers
    total, length = _convolution(root, network.image_size)
    length = resnet.halved(length)
    for stage in stages:
        for unit in stage.units:
            if unit.conv_proj is not None:
                total += _convolution(unit.conv_proj, length)[0]
            for conv in (unit.conv1, unit.conv2, unit.conv3):
                macs, length = _convolution(conv, length)
                total += macs
    return total


def _resnet(network: bit.BiT) -> int:
    total, length = _convolution(network.root, network.image_size)
    length = resnet.halved(length)
    for unit in network.units:
        if unit.a.proj is not None:
            total += _convolution(unit.a.proj, length)[0]
        for branch in (unit.a, unit.b, unit.c):
            count = _axial if branch.length else _convolution
            macs, length = count(branch.conv, length)
            total += macs
    return total


def _axial(layer: axial.AxialAttention, length: int) -> tuple[int, int]:
    """Multiply-accumulates of both axes, and the length they leave."""
    features, lines = layer.features, length
    # Queries and keys are half as wide as values: 2 f^2 for the three of them.
    projections = length * lines * 2 * features**2
    # Query with key and both with their offsets; value and offset with the weights.
    pairs = lines * length**2 * (3 * features // 2 + 2 * features)
    after = length if layer.stride == 1 else resnet.halved(length)
    return 2 * (projections + pairs), after


def _convolution(conv: resnet.StdConv, length: int) -> tuple[int, int]:
    """Multiply-accumulates on a square map, and the length it leaves."""
    taps, after = _taps(length, conv.size, conv.stride, conv.padding)
    return taps**2 * conv.inputs * conv.outputs, after


@functools.cache
def _taps(length: int, size: int, stride: int, padding) -> tuple[int, int]:
    """Taps along one axis that are no padding, and the length of the result."""
    if padding == "same":
        after = -(-length // stride)
        before = max((after - 1) * stride + size - length, 0) // 2
    else:
        after, before = (length + 2 * padding - size) // stride + 1, padding
    starts = [i * stride - before for i in range(after)]
    return sum(max(min(s + size, length) - max(s, 0), 0) for s in starts), after
