"""The ViT forward pass in plain NumPy, from equations 1 to 4 and appendix A.

Float64, one head and one patch at a time, arrays by their released names. Shares
no line with vit_tf: what both compute alike is what the paper says.
"""

import math

import numpy as np

from tests.support import reference_resnet


def forward(
    arrays: dict,
    images: np.ndarray,
    *,
    pool: str = "",
    shared: bool = False,
    sincos: bool = False,
    axial: bool = False,
) -> dict[str, np.ndarray]:
    """All intermediates of a ViT, as `vit.VisionTransformer` names them.

    What the arrays do not show: pool 'unpooled' gives all tokens; `shared` adds the
    one table before every block; `sincos` adds fixed positions; `axial` attends along
    rows in even blocks, along columns in odd ones.
    """
    arrays = {name: np.asarray(a, np.float64) for name, a in arrays.items()}
    out, images = {}, np.asarray(images, np.float64)
    if "conv_root/kernel" in arrays:
        images = out["stem"] = reference_resnet.hybrid_stem(arrays, images)
    x = out["patches"] = _patches(arrays, images)
    if "cls" in arrays:
        x = np.concatenate([np.repeat(arrays["cls"], len(x), axis=0), x], axis=1)
    if sincos:
        x = x + _sincos(x.shape[1], x.shape[2], "cls" in arrays)
    x = x + _positions(arrays, "posembed_input")
    out["positioned"] = x
    depth = sum(
        n.startswith("Transformer/") and n.endswith("LayerNorm_0/scale") for n in arrays
    )
    for i in range(depth):
        if i:
            x = x + _positions(arrays, "posembed_input" if shared else f"posembed_{i}")
        block = _below(arrays, f"Transformer/encoderblock_{i}/")
        y = _layer_norm(x, _below(block, "LayerNorm_0/"))
        seen = _axis_mask(x.shape[1], i) if axial else None
        y, out[f"attention_{i}"] = _attention(
            y, _below(block, "MultiHeadDotProductAttention_1/"), seen=seen
        )
        x = x + y
        y = _layer_norm(x, _below(block, "LayerNorm_2/"))
        x = x + _mlp(y, _below(block, "MlpBlock_3/"))
        out[f"block_{i}"] = x
    x = out["encoded"] = _layer_norm(x, _below(arrays, "Transformer/encoder_norm/"))
    if "MAPHead_0/probe" in arrays:
        x = out["pooled"] = _map_head(_below(arrays, "MAPHead_0/"), x)
    elif pool != "unpooled":
        x = out["pooled"] = x[:, 0] if "cls" in arrays else x.mean(axis=1)
    if "pre_logits/kernel" in arrays:
        x = np.tanh(x @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
        out["pre_logits"] = x
    if "head/kernel" in arrays:
        out["logits"] = x @ arrays["head/kernel"] + arrays["head/bias"]
    return out


def _below(arrays, prefix):
    return {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}


def _patches(arrays, images):
    kernel = arrays["embedding/kernel"]  # (P, P, channels, D)
    size = kernel.shape[0]
    tokens = []
    for row in range(0, images.shape[1] - size + 1, size):
        for column in range(0, images.shape[2] - size + 1, size):
            patch = images[:, row : row + size, column : column + size]
            tokens.append(np.einsum("bhwc,hwcd->bd", patch, kernel))
    return np.stack(tokens, axis=1) + arrays["embedding/bias"]


def _layer_norm(x, part):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * part["scale"] + part["bias"]


def _positions(arrays, layer):
    """What this layer adds, (1, T, D); 0 if it is not there."""
    part = _below(arrays, f"Transformer/{layer}/")
    if "pos_embedding" in part:
        return part["pos_embedding"]
    if "x_embedding" not in part:
        return 0.0
    table = [
        np.concatenate([column, row])
        for row in part["y_embedding"]
        for column in part["x_embedding"]
    ]
    return np.stack([*part.get("cls_embedding", ()), *table])[None]


def _sincos(tokens, width, has_cls):
    grid = math.isqrt(tokens - has_cls)
    table = [np.zeros(width)] * has_cls
    for y in range(grid):
        for x in range(grid):
            parts = [[], [], [], []]
            for k in range(width // 4):
                w = 10_000 ** -(k / (width // 4 - 1))
                found = (
                    math.sin(x * w),
                    math.cos(x * w),
                    math.sin(y * w),
                    math.cos(y * w),
                )
                for part, number in zip(parts, found):
                    part.append(number)
            table.append(np.concatenate(parts))
    return np.stack(table)


def _axis_mask(tokens, block):
    """(query, key) true where both stand in one row, in odd blocks one column."""
    place = np.divmod(np.arange(tokens), math.isqrt(tokens))[block % 2]
    return place[:, None] == place[None]


def _map_head(part, x):
    probe = np.repeat(part["probe"], len(x), axis=0)
    attention = _below(part, "MultiHeadDotProductAttention_0/")
    y, _ = _attention(probe, attention, context=x)
    z = _layer_norm(y, _below(part, "LayerNorm_0/"))
    return (y + _mlp(z, _below(part, "MlpBlock_0/")))[:, 0]


def _attention(x, part, context=None, seen=None):
    heads, head_width, _ = part["out/kernel"].shape
    total, all_weights = part["out/bias"], []
    context = x if context is None else context
    for h in range(heads):
        query, key, value = (
            y @ part[f"{name}/kernel"][:, h] + part[f"{name}/bias"][h]
            for name, y in (("query", x), ("key", context), ("value", context))
        )
        scores = np.einsum("bqd,bkd->bqk", query, key)
        if "relative" in part:
            tokens = x.shape[1]
            for q in range(tokens):
                for k in range(tokens):
                    offset = part["relative"][k - q + tokens - 1]
                    scores[:, q, k] += query[:, q] @ offset
        scores = scores / math.sqrt(head_width)
        if seen is not None:
            scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
        all_weights.append(weights)
        total = (
            total + np.einsum("bqk,bkd->bqd", weights, value) @ part["out/kernel"][h]
        )
    return total, np.stack(all_weights, axis=1)


def _mlp(x, part):
    x = x @ part["Dense_0/kernel"] + part["Dense_0/bias"]
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    x = 0.5 * x * (1 + np.tanh(inner))
    return x @ part["Dense_1/kernel"] + part["Dense_1/bias"]
