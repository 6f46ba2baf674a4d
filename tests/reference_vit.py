"""The ViT forward pass in plain NumPy, from the equations of paper.md 1.4.

Float64, one head and one patch at a time, arrays by their released names. Shares
no line with vit_tf: what both compute alike is what the paper says.
"""

import math

import numpy as np


def forward(arrays: dict, images: np.ndarray) -> dict[str, np.ndarray]:
    """All intermediates of a ViT, as `vit.VisionTransformer` names them."""
    arrays = {name: np.asarray(a, np.float64) for name, a in arrays.items()}
    out = {}
    x = out["patches"] = _patches(arrays, np.asarray(images, np.float64))
    if "cls" in arrays:
        x = np.concatenate([np.repeat(arrays["cls"], len(x), axis=0), x], axis=1)
    x = x + arrays["Transformer/posembed_input/pos_embedding"]
    out["positioned"] = x
    depth = sum(n.endswith("LayerNorm_0/scale") for n in arrays)
    for i in range(depth):
        block = _below(arrays, f"Transformer/encoderblock_{i}/")
        y = _layer_norm(x, _below(block, "LayerNorm_0/"))
        y, out[f"attention_{i}"] = _attention(
            y, _below(block, "MultiHeadDotProductAttention_1/")
        )
        x = x + y
        y = _layer_norm(x, _below(block, "LayerNorm_2/"))
        x = x + _mlp(y, _below(block, "MlpBlock_3/"))
        out[f"block_{i}"] = x
    x = out["encoded"] = _layer_norm(x, _below(arrays, "Transformer/encoder_norm/"))
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
    kernel = arrays["embedding/kernel"]  # (P, P, 3, D)
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


def _attention(x, part):
    heads, head_width, _ = part["out/kernel"].shape
    total, all_weights = part["out/bias"], []
    for h in range(heads):
        query, key, value = (
            x @ part[f"{name}/kernel"][:, h] + part[f"{name}/bias"][h]
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bqd,bkd->bqk", query, key) / math.sqrt(head_width)
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
