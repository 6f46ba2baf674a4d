"""What a model costs: parameters, forward multiply-accumulates, the paper's exaFLOPs.

Counted as the paper's Table 6 must have been, which was found by computing: all
convolutions and matrix products from the image to the last block, of convolutions
only the taps that fall on the image, not on its padding. Norms, softmax, GELU and
the layers after pooling are left out; they are below 1 %.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

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


def count(
    model: config.Model, *, image_size: int = 224, num_classes: int = 1000
) -> Cost:
    """Costs of a model whose arrays are never made."""
    network = build.outline(model, num_classes=num_classes, image_size=image_size)
    return Cost(
        parameters=sum(math.prod(weight.shape) for weight in network.weights),
        tokens=getattr(network, "num_tokens", None),
        macs=forward_macs(network),
    )


def exaflops(macs: int, *, images: float) -> float:
    """Returns training on `images` images (epochs counted), in
    10^18 operations (Table 6).
    """
    return _FLOPS_PER_MAC * macs * images / 1e18


def forward_macs(network: keras.Model) -> int:
    """Returns the multiply-accumulates of one image's forward pass."""
    total = sum(made.macs for made in feature_maps(network))
    is_resnet = isinstance(network, bit.BiT)
    return total if is_resnet else total + _transformer(network)


@dataclasses.dataclass(frozen=True)
class Map:
    """A feature map that a convolution or an axial attention makes of one image.

    Attributes:
        macs: multiply-accumulates that it takes.
        values: numbers in it.
    """

    macs: int
    values: int


def feature_maps(network: keras.Model) -> list[Map]:
    """Returns the maps of a BiT ResNet or of a hybrid's stem; none of a plain ViT."""
    if isinstance(network, bit.BiT):
        return list(_resnet(network))
    return list(_stem(network)) if network.stem is not None else []


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
    return total


def _stem(network: vit.VisionTransformer) -> Iterator[Map]:
    root, _, *stages = network.stem_layers
    made, length = _convolution(root, network.image_size)
    yield made
    length = resnet.halved(length)
    for stage in stages:
        for unit in stage.units:
            if unit.conv_proj is not None:
                yield _convolution(unit.conv_proj, length)[0]
            for conv in (unit.conv1, unit.conv2, unit.conv3):
                made, length = _convolution(conv, length)
                yield made


def _resnet(network: bit.BiT) -> Iterator[Map]:
    made, length = _convolution(network.root, network.image_size)
    yield made
    length = resnet.halved(length)
    for unit in network.units:
        if unit.a.proj is not None:
            yield _convolution(unit.a.proj, length)[0]
        for branch in (unit.a, unit.b, unit.c):
            count = _axial if branch.length else _convolution
            made, length = count(branch.conv, length)
            yield made


def _axial(layer: axial.AxialAttention, length: int) -> tuple[Map, int]:
    """Returns what attention along both axes makes, and the length it leaves."""
    features, lines = layer.features, length
    # Queries and keys are half as wide as values: 2 f^2 for the three of them.
    projections = length * lines * 2 * features**2
    # Query with key and both with their offsets; value and offset with the weights.
    pairs = lines * length**2 * (3 * features // 2 + 2 * features)
    after = length if layer.stride == 1 else resnet.halved(length)
    return Map(2 * (projections + pairs), length * lines * 4 * features), after


def _convolution(conv: resnet.StdConv, length: int) -> tuple[Map, int]:
    """Returns what it makes of a square map, and the length it leaves."""
    taps, after = count_taps(length, conv.size, conv.stride, conv.padding)
    macs = taps**2 * conv.inputs * conv.outputs
    return Map(macs, after**2 * conv.outputs), after


@functools.cache
def count_taps(length: int, size: int, stride: int, padding) -> tuple[int, int]:
    """Taps along one axis that are no padding, and the length of the result."""
    if padding == "same":
        after = -(-length // stride)
        before = max((after - 1) * stride + size - length, 0) // 2
    else:
        after, before = (length + 2 * padding - size) // stride + 1, padding
    starts = [i * stride - before for i in range(after)]
    return sum(max(min(s + size, length) - max(s, 0), 0) for s in starts), after
