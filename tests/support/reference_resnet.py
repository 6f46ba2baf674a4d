"""The paper's two ResNets in plain NumPy, as the authors' and BiT's code has them.

Float64, convolutions one tap at a time, arrays by their released names. Shares no
line with vit_tf.
"""

import numpy as np


def hybrid_stem(arrays: dict, images: np.ndarray) -> np.ndarray:
    """Version 1: the map that a hybrid cuts into tokens."""
    x = _conv(images, _standard(arrays["conv_root/kernel"], v1=True), 2, "same")
    x = _relu(_group_norm(x, arrays, "gn_root", ("scale", "bias"), 1e-6))
    x = _max_pool_same(x)
    block = 1
    while f"block{block}/unit1/conv1/kernel" in arrays:
        unit = 1
        while f"block{block}/unit{unit}/conv1/kernel" in arrays:
            stride = 2 if block > 1 and unit == 1 else 1
            x = _unit_v1(x, arrays, f"block{block}/unit{unit}", stride)
            unit += 1
        block += 1
    return x


def _unit_v1(x, arrays, name, stride):
    def conv(y, which, step):
        kernel = _standard(arrays[f"{name}/{which}/kernel"], v1=True)
        return _conv(y, kernel, step, "same")

    def norm(y, which):
        return _group_norm(y, arrays, f"{name}/{which}", ("scale", "bias"), 1e-6)

    residual = x
    if f"{name}/conv_proj/kernel" in arrays:
        residual = norm(conv(x, "conv_proj", stride), "gn_proj")
    y = _relu(norm(conv(x, "conv1", 1), "gn1"))
    y = _relu(norm(conv(y, "conv2", stride), "gn2"))
    return _relu(residual + norm(conv(y, "conv3", 1), "gn3"))


def bit(arrays: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """Version 2: intermediates as `bit.BiT` names them."""
    arrays = {name: np.asarray(a, np.float64) for name, a in arrays.items()}
    out, images = {}, np.asarray(images, np.float64)
    root = arrays["resnet/root_block/standardized_conv2d/kernel"]
    x = _conv(images, _standard(root, v1=False), 2, 3)
    x = _pool_valid(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    block = 1
    while f"resnet/block{block}/unit01/a/group_norm/gamma" in arrays:
        unit = 1
        while f"resnet/block{block}/unit{unit:02d}/a/group_norm/gamma" in arrays:
            stride = 2 if block > 1 and unit == 1 else 1
            x = _unit_v2(x, arrays, f"resnet/block{block}/unit{unit:02d}", stride)
            unit += 1
        out[f"stage_{block - 1}"] = x
        block += 1
    x = _relu(_group_norm(x, arrays, "resnet/group_norm", ("gamma", "beta"), 1e-5))
    out["encoded"] = x
    x = out["pooled"] = x.mean(axis=(1, 2))
    head = "resnet/head/conv2d"
    out["logits"] = x @ arrays[f"{head}/kernel"][0, 0] + arrays[f"{head}/bias"]
    return out


def _unit_v2(x, arrays, name, stride):
    def conv(y, which, step, pad):
        kernel = arrays[f"{name}/{which}/standardized_conv2d/kernel"]
        return _conv(y, _standard(kernel, v1=False), step, pad)

    def ready(y, which):
        where = f"{name}/{which}/group_norm"
        return _relu(_group_norm(y, arrays, where, ("gamma", "beta"), 1e-5))

    first = ready(x, "a")
    shortcut = x
    if f"{name}/a/proj/standardized_conv2d/kernel" in arrays:
        shortcut = conv(first, "a/proj", stride, 0)
    y = conv(first, "a", 1, 0)
    y = conv(ready(y, "b"), "b", stride, 1)
    return shortcut + conv(ready(y, "c"), "c", 1, 0)


def _standard(kernel, *, v1):
    mean = kernel.mean(axis=(0, 1, 2))
    variance = ((kernel - mean) ** 2).mean(axis=(0, 1, 2))
    if v1:
        return (kernel - mean) / (np.sqrt(variance) + 1e-5)
    return (kernel - mean) / np.sqrt(variance + 1e-10)


def _same(length, size, stride):
    """TensorFlow's rule: what is odd goes behind."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _conv(x, kernel, stride, padding):
    size = kernel.shape[0]
    if padding == "same":
        pads = [_same(length, size, stride) for length in x.shape[1:3]]
    else:
        pads = [(padding, padding)] * 2
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    total = 0.0
    for i in range(size):
        for j in range(size):
            part = x[
                :, i : i + rows * stride : stride, j : j + columns * stride : stride
            ]
            total = total + part[:, :rows, :columns] @ kernel[i, j]
    return total


def _max_pool_same(x):
    pads = [_same(length, 3, 2) for length in x.shape[1:3]]
    return _pool_valid(np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf))


def _pool_valid(x):
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    parts = [
        x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2][:, :rows, :columns]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(parts, axis=0)


def _group_norm(x, arrays, name, names, epsilon):
    scale, bias = (arrays[f"{name}/{n}"] for n in names)
    result = np.empty_like(x)
    width = x.shape[-1] // 32
    for g in range(32):
        channels = slice(g * width, (g + 1) * width)
        part = x[..., channels]
        mean = part.mean(axis=(1, 2, 3), keepdims=True)
        variance = ((part - mean) ** 2).mean(axis=(1, 2, 3), keepdims=True)
        result[..., channels] = (part - mean) / np.sqrt(variance + epsilon)
    return result * scale + bias


def _relu(x):
    return np.maximum(x, 0)
