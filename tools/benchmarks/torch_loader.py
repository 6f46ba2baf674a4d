"""Images per second of PyTorch's usual training loader, for `tools.benchmark`.

Runs in an environment with torch and torchvision, which vit_tf does not need:

    PYTHON tools/benchmarks/torch_loader.py FOLDER IMAGE_SIZE BATCH_SIZE WORKERS BATCHES

FOLDER has a folder per class. Prints one number: images per second after the first
batches, of PIL decoding, RandomResizedCrop (area 0.05 to 1, as the paper's), flip
and ToTensor, in WORKERS processes.
"""

import sys
import time

import torch
from torchvision import datasets, transforms

_WARM_UP = 20  # batches: the workers start, and what they made ahead is used up


def main(folder, image_size, batch_size, workers, batches) -> None:
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, scale=(0.05, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    images = datasets.ImageFolder(folder, view)
    wanted = (_WARM_UP + batches) * batch_size
    sampler = torch.utils.data.RandomSampler(
        images, replacement=True, num_samples=wanted
    )
    loader = torch.utils.data.DataLoader(
        images, batch_size, sampler=sampler, num_workers=workers
    )
    for number, _ in enumerate(loader, start=1):
        if number == _WARM_UP:
            began = time.perf_counter()
    print(batches * batch_size / (time.perf_counter() - began))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
