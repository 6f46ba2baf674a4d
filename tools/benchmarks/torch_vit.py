"""A ViT in PyTorch from a released file, for `tools.benchmark --what=serving`.

Runs in an environment with torch and timm, which vit_tf does not need:

    PYTHON tools/benchmarks/torch_vit.py WEIGHTS.npz VARIANT DTYPE IMAGES.npy PROBABILITIES.npy

For each line that it is sent it reads the images (batch, size, size, 3), writes the
probabilities and prints the seconds of the model's call alone.
"""

import sys
import time

import numpy as np
import timm
import torch

NAMES = {
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/32": "vit_base_patch32_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
}


def main(weights, variant, dtype, given, answer) -> None:
    dtype = getattr(torch, dtype)
    model = timm.create_model(NAMES[variant], pretrained=False)
    model.load_pretrained(weights)
    # timm computes GELU by erf; the released weights were trained with tanh.
    for block in model.blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    model = model.to(dtype).eval()
    for _ in sys.stdin:
        images = torch.from_numpy(np.load(given)).permute(0, 3, 1, 2).to(dtype)
        with torch.inference_mode():
            began = time.perf_counter()
            logits = model(images)
            seconds = time.perf_counter() - began
            shares = logits.float().softmax(-1).numpy()
        np.save(answer, shares)
        print(seconds, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
