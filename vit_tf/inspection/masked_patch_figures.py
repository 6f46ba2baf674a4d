"""Draws masked patches: for TensorBoard, and as masked_patches.png in a run."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source, mixture
from vit_tf.evaluation import evaluators
from vit_tf.inspection import figures, plots, training_hooks
from vit_tf.runs import hooks, loading, run_directory, stored_weights
from vit_tf.runtime import devices, filesystem

NUMBER = 8  # images that a run draws

FILE = "masked_patches.png"
# A folder of TensorBoard's own, which a resumed run does not empty as it does its
# curves: rows can be drawn again, pictures cannot.
FOLDER = "pictures"

_GAP, _SIDE = 2, 96  # pixels between pictures; a small one is enlarged to this


def of_run(
    path: str,
    *,
    number: int,
    machine: devices.Runtime,
    data_dir: str | None = None,
) -> dict[str, np.ndarray]:
    """Computes the pictures of a finished run's masked patches.

    Args:
        path: its folder.
        number: how many images, the first of the first split that it evaluates.
        machine: devices and strategy.
        data_dir: where prepared data sets lie.

    Returns:
        `masked_patches.MaskedPatches.show`: name -> uint8 (number, size, size, 3).

    Raises:
        errors.UserError: no such run, or one with another objective.
    """
    if not stored_weights.locate(path).is_run:
        raise errors.UserError(
            f"{path}: an .npz does not hold the prediction head of masked patches; name a "
            "run's folder"
        )
    cfg = stored_weights.read_run(path)[0]
    if cfg.objective.task is not config.Task.MASKED_PATCH or not cfg.evals.splits:
        raise errors.UserError(
            f"{path}: was not trained with objective.task={config.Task.MASKED_PATCH} "
            "and a split in evals.splits; name a run that was"
        )
    source = mixture.open_all(cfg.data.name, data_dir=data_dir).sources[0]
    with machine.strategy.scope():
        loaded = loading.open_model(path, dtype=str(cfg.train.precision))
    evaluator = evaluators.of_masked_patches(loaded, machine)
    split = cfg.evals.splits[0]
    return evaluator.pictures(source, cfg.data.view, split, number=number)


def figure(
    path: str,
    *,
    number: int,
    machine: devices.Runtime,
    data_dir: str | None = None,
) -> figures.Figure:
    """Draws `of_run` as a figure named masked_patches; takes and raises the same."""
    panels = of_run(path, number=number, machine=machine, data_dir=data_dir)
    cfg = stored_weights.read_run(path)[0]
    shown = len(panels["image"])
    title = (
        f"{cfg.model.variant}: masked patches\nof the first {shown} images of "
        f"{cfg.data.name}, {cfg.evals.splits[0]}"
    )
    drawn = plots.panels(panels, title=title)
    return figures.Figure("masked_patches", drawn, panels)


@dataclasses.dataclass(frozen=True)
class DrawMaskedPatches:
    """Draws the first images that a run evaluates, with what it predicts of them.

    Attributes:
        when: the steps after which it draws.
        cfg: the run.
        run: its folder.
        evaluator: predicts; all processes of the run have to call it together.
        source: the data set that is evaluated.
    """

    when: hooks.Every
    cfg: config.Config
    run: run_directory.RunDirectory
    evaluator: evaluators.MaskedPatches
    source: data_source.Source

    def __call__(self, step: int) -> list[str]:
        """Draws the masked patches of `step`."""
        view, split = self.cfg.data.view, self.cfg.evals.splits[0]
        panels = self.evaluator.pictures(self.source, view, split, number=NUMBER)
        if self.run.writes:
            write(self.run.workdir, panels, step=step)
        return []


def draw_masked_patches(
    cfg: config.Config,
    run: run_directory.RunDirectory,
    *,
    evaluator: evaluators.Classification | evaluators.MaskedPatches,
    source: data_source.Source,
    total_steps: int,
) -> list[DrawMaskedPatches]:
    """Returns the hook that draws masked patches, for a run that predicts them.

    It draws as often as the config asks for figures, and at the end.
    """
    if not (isinstance(evaluator, evaluators.MaskedPatches) and cfg.evals.splits):
        return []
    when = hooks.Every(cfg.evals.draw_every_steps, total_steps)
    return [DrawMaskedPatches(when, cfg, run, evaluator, source)]


def write(workdir: str, panels: Mapping[str, np.ndarray], *, step: int) -> None:
    """Gives the pictures of a step to TensorBoard, and replaces the run's PNG.

    Raises:
        errors.UserError: the disk is full or cannot be written.
    """
    path, folder = os.path.join(workdir, FILE), os.path.join(workdir, FOLDER)
    filesystem.write_whole(path, tf.io.encode_png(side_by_side(panels)).numpy())
    with filesystem.refusing(folder):
        tf.io.gfile.makedirs(folder)
    name = f"masked patches: {', '.join(panels)}"
    training_hooks.show(folder, {name: path}, step=step)


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Joins a row for each image with all its panels: uint8 (height, width, 3).

    Args:
        panels: uint8 (number, size, size, 3) each.
    """
    columns = []
    for pictures in panels.values():
        times = max(1, _SIDE // pictures.shape[1])
        large = pictures.repeat(times, axis=1).repeat(times, axis=2)
        edges = ((0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0))
        framed = np.pad(large, edges, constant_values=255)
        columns.append(framed.reshape(-1, *framed.shape[2:]))
    return np.concatenate(columns, axis=1)
