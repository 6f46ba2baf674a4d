"""Draws what a finished run of masked patches predicts, a row for each image."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from vit_tf import config, pictures, runtime


def draw(
    checkpoint: str | None, folder: str, *, number: int, data_dir: str | None
) -> pathlib.Path:
    """The first images of the split that the run evaluates, as masked_patches.png.

    Args:
        checkpoint: the run's folder.
        folder: where the picture goes.
        number: of images.
        data_dir: where prepared data sets lie.

    Raises:
        config.Refused: no run named, or one that predicted no patches.
    """
    if checkpoint is None:
        raise config.Refused(
            "--checkpoint is missing: name the folder of a finished run whose "
            "objective.task was masked_patch"
        )
    machine = runtime.start(config.Train())
    panels = pictures.of_run(
        checkpoint, number=number, machine=machine, data_dir=data_dir
    )
    rows = len(panels["image"])
    figure, axes = plt.subplots(
        rows,
        len(panels),
        figsize=(1.3 * len(panels), 1.3 * rows + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for column, (name, images) in zip(axes.T, panels.items()):
        column[0].set_title(name, fontsize=9)
        for place, image in zip(column, images):
            place.imshow(image, interpolation="nearest")
            place.set_axis_off()
    path = pathlib.Path(folder) / pictures.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
