"""The inspection figures of a model while it trains, in its folder and TensorBoard.

figures/step_00000100/     each figure as .png, .svg and .npz
figures/events...          the same as TensorBoard's images
"""

import dataclasses
import os
from collections.abc import Mapping

import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.inspection import figures, image_sets, inspector
from vit_tf.models import network
from vit_tf.runs import hooks, run_directory
from vit_tf.runtime import filesystem

FOLDER = "figures"
NUMBER = 8  # images in a figure


@dataclasses.dataclass(frozen=True)
class DrawFigures:
    """Draws every figure that a model can have without labels, while it trains.

    It reads weights and draws no random number, so the run goes on as if it had not
    been; a resumed run replaces what it draws again.

    Attributes:
        when: the steps after which it draws.
        cfg: the run.
        run: its folder; a process that does not write to it draws nothing.
        model: what is trained.
        source: the data set of the images.
    """

    when: hooks.Every
    cfg: config.Config
    run: run_directory.RunDirectory
    model: network.Network
    source: data_source.Source

    def __call__(self, step: int) -> list[str]:
        """Draws the figures of `step`.

        Raises:
            errors.UserError: the disk is full or cannot be written.
        """
        if not self.run.writes:
            return []
        cfg, folder = self.cfg, self.run.path(FOLDER)
        shown = image_sets.of_split(
            self.source, cfg.data.view, cfg.evals.splits[0], max_images=NUMBER
        )
        seen = inspector.Inspector(
            self.model,
            f"{cfg.model.variant}, step {step:,}",
            shown,
            class_names=self.source.class_names,
            sigmoid=cfg.objective.loss is config.Loss.SIGMOID,
            shown=NUMBER,
        )
        home = os.path.join(folder, f"step_{step:08d}")
        pictures = {}
        for figure in figures.draw_all(seen):
            if isinstance(figure, figures.Figure):
                png, *_ = figure.write(home)
                pictures[figure.name] = png
        show(folder, pictures, step=step)
        return []


def draw_figures(
    cfg: config.Config,
    run: run_directory.RunDirectory,
    *,
    model: network.Network,
    source: data_source.Source,
    total_steps: int,
) -> list[DrawFigures]:
    """Returns the hook of a run's figures, if its config asks for figures.

    Raises:
        errors.UserError: it evaluates no split, so there are no images to draw.
    """
    every = cfg.evals.draw_every_steps
    if every is None:
        return []
    if not cfg.evals.splits:
        raise errors.UserError(
            f"evals.draw_every_steps={every}: draws images of the first split in "
            "evals.splits, which is empty; name one"
        )
    when = hooks.Every(every, total_steps, at_end=False)
    return [DrawFigures(when, cfg, run, model, source)]


def show(folder: str, pictures: Mapping[str, str], *, step: int) -> None:
    """Gives PNG files to TensorBoard, in the place of what it had of this step.

    Args:
        folder: of nothing but such pictures.
        pictures: name -> path.

    Raises:
        errors.UserError: the disk is full or cannot be written.
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
