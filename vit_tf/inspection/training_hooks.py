"""The inspection figures of a model while it trains, in its folder and TensorBoard.

figures/step_00000100/     each figure as .png, .svg and .npz
figures/events...          the same as TensorBoard's images
"""

import os
from collections.abc import Mapping

import tensorflow as tf

from vit_tf import config
from vit_tf.inspection import figures, image_sets, inspector
from vit_tf.runs import run_directory
from vit_tf.runtime import filesystem

FOLDER = "figures"
NUMBER = 8  # images that are looked at


def check(cfg: config.Config) -> None:
    """Refuses to draw where a run evaluates no split, so has no images to look at."""
    if cfg.evals.draw_every_steps and not cfg.evals.splits:
        raise config.Refused(
            f"evals.draw_every_steps={cfg.evals.draw_every_steps}: draws images of the "
            "first split in evals.splits, which is empty; name one"
        )


def due(cfg: config.Config, done: int) -> bool:
    """Whether a run draws after `done` steps."""
    every = cfg.evals.draw_every_steps
    return bool(every) and done > 0 and done % every == 0


def draw(cfg: config.Config, run: run_directory.Run, trainee, *, step: int) -> None:
    """Draws every figure that the model can have without labels.

    It reads weights and draws no random number, so the run goes on as if it had not
    been; a resumed run replaces what it draws again.

    Args:
        trainee: has the `model` and its data's `source`.

    Raises:
        config.Refused: the disk is full or cannot be written.
    """
    if not run.writes:
        return
    source = trainee.source
    shown = image_sets.of_split(
        source, cfg.data, cfg.evals.splits[0], max_images=NUMBER
    )
    seen = inspector.Subject(
        trainee.model,
        f"{cfg.model.variant}, step {step:,}",
        shown,
        class_names=source.class_names,
        sigmoid=cfg.objective.loss is config.Loss.SIGMOID,
        shown=NUMBER,
    )
    folder = run.path(FOLDER)
    home = os.path.join(folder, f"step_{step:08d}")
    pictures = {}
    for figure in figures.draw_all(seen):
        if isinstance(figure, figures.Figure):
            png, *_ = figure.write(home)
            pictures[figure.name] = png
    show(folder, pictures, step=step)


def show(folder: str, pictures: Mapping[str, str], *, step: int) -> None:
    """Gives PNG files to TensorBoard, in the place of what it had of this step.

    Args:
        folder: of nothing but such pictures.
        pictures: name -> path.

    Raises:
        config.Refused: the disk is full or cannot be written.
    """
    own = f".step_{step:08d}"
    with filesystem.refusing(folder):
        for old in tf.io.gfile.glob(os.path.join(folder, f"events.*{own}")):
            tf.io.gfile.remove(old)
        writer = tf.summary.create_file_writer(folder, filename_suffix=own)
        with writer.as_default(step=step):
            for name, path in pictures.items():
                picture = tf.io.decode_png(tf.io.read_file(path), channels=3)
                tf.summary.image(name, picture[None])
        writer.close()
