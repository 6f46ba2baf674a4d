"""Weights on disk: of a finished run, of a checkpoint inside a run, or in a file.

Wherever weights are named, these are understood (`locate`):

    runs/a                     a finished run: the weights that it ended with
    runs/a@best                its best checkpoint, by train.keep_best
    runs/a@step_400            its checkpoint of that step, of an unfinished run too
    runs/a/checkpoints/step_00000400
    runs/a/weights.npz         the same as runs/a, because the run knows more
    runs/transfer              what tools.transfer left: the best of its final runs
    ViT-B_16.npz               a file of any published layout
"""

import atexit
import contextlib
import dataclasses
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from vit_tf import config, config_values, errors, identity
from vit_tf.models import build, network, npz_weights
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import filesystem

# In a run's folder, beside weights.npz: what the objective learned for itself.
OBJECTIVE = "objective.npz"

_REFERENCE = re.compile(r"^(?P<run>.+)@(?P<which>best|step_(?P<step>\d+))$")
_CHECKPOINT = re.compile(r"^(?P<run>.+?)/+checkpoints/+step_(?P<step>\d{8})/*$")


@dataclasses.dataclass(frozen=True)
class Location:
    """Where weights are.

    Attributes:
        path: a run's folder, or a file.
        step: of the checkpoint inside the run; None: the run's final weights.
        is_run: whether `path` is a run's folder, which knows config and classes.
    """

    path: str
    step: int | None = None
    is_run: bool = False


def locate(path: str) -> Location:
    """Finds the weights that a path stands for; the module's docstring lists the forms.

    Raises:
        errors.UserError: nothing there; a run without the checkpoint that is named.
    """
    with filesystem.reading(path):
        exists = tf.io.gfile.exists(path)
    if inside := _CHECKPOINT.match(path):
        return _checkpoint_of(inside["run"], int(inside["step"]))
    if not exists and (reference := _REFERENCE.match(path)):
        run, step = reference["run"], reference["step"]
        return _checkpoint_of(run, _best_step(run) if step is None else int(step))
    if not exists:
        raise errors.UserError(
            f"{path}: no such file or folder; name a finished run or a released .npz"
        )
    if not tf.io.gfile.isdir(path):
        folder, name = os.path.split(path)
        if name == "weights.npz" and _has(folder or ".", "result.json"):
            return Location(folder or ".", is_run=True)
        return Location(path)
    if _has(path, "result.json"):
        return Location(path, is_run=True)
    if _has(path, "transfer.json"):
        return locate(_best_of_transfer(path))
    raise errors.UserError(f"{path}: no finished run there; {_remedy(path)}")


def _checkpoint_of(run: str, step: int) -> Location:
    steps = checkpoint.saved_steps(os.path.join(run, "checkpoints"))
    if step not in steps:
        there = ", ".join(f"{run}@step_{s}" for s in steps[-4:]) or "none"
        raise errors.UserError(
            f"{run}@step_{step}: no such checkpoint; there are: {there}"
        )
    return Location(run, step, is_run=True)


def _best_step(run: str) -> int:
    """Returns the step of the best checkpoint that a run has kept."""
    if not _has(run, "config.json"):
        raise errors.UserError(f"{run}@best: no run there; name a run's folder")
    metric = _config(run).train.keep_best
    if metric is None:
        raise errors.UserError(
            f"{run}@best: this run was not asked to keep its best checkpoint "
            f"(train.keep_best); {_remedy(run)}"
        )
    steps = checkpoint.saved_steps(os.path.join(run, "checkpoints"))
    best = run_directory.best_step(run, metric, steps)
    if best is None:
        raise errors.UserError(
            f"{run}@best: no checkpoint that is left has a {metric}; {_remedy(run)}"
        )
    return best


def _best_of_transfer(folder: str) -> str:
    """Returns the final run of `tools.transfer` with the highest accuracy."""
    path = os.path.join(folder, "transfer.json")
    accuracies = filesystem.read_json(path, "transfer again").get("accuracies")
    if not accuracies:
        raise errors.UserError(f"{path}: names no final runs; transfer again")
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    return os.path.join(folder, "final", f"seed{best}")


def _remedy(folder: str) -> str:
    """Says what a user can name instead of a folder without a result."""
    steps = checkpoint.saved_steps(os.path.join(folder, "checkpoints"))
    if steps:
        return f"its newest checkpoint is {folder}@step_{steps[-1]}"
    if _has(folder, "config.json"):
        return "finish that run first"
    inside = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
    runs = [n for n in sorted(inside) if _has(os.path.join(folder, n), "result.json")]
    if runs:
        return f"there is one in {os.path.join(folder, runs[0])}"
    return "name a run's folder"


def _has(folder: str, name: str) -> bool:
    return tf.io.gfile.exists(os.path.join(folder, name))


def weights_file(path: str) -> str:
    """Returns the .npz that `path` stands for: itself, or that of a run.

    The weights of a checkpoint inside a run are the averaged ones where the run keeps
    an average, as in its evaluations; they are written to a temporary file.

    Raises:
        errors.UserError: see `locate`.
    """
    where = locate(path)
    if where.step is not None:
        return _extracted(where.path, where.step)
    return os.path.join(where.path, "weights.npz") if where.is_run else where.path


def read_run(path: str) -> tuple[config.Config, dict]:
    """Returns a run's config, and its result.

    Of a checkpoint inside a run the result has 'class_names' and 'steps' alone.

    Raises:
        errors.UserError: no run; a file of it that is damaged, by name.
    """
    where = locate(path)
    if not where.is_run:
        raise errors.UserError(f"{path}: a file, not a run's folder")
    if where.step is None:
        result = run_directory.read_result(where.path)
    else:
        data = run_directory.read_data(where.path)
        result = {"steps": where.step, "class_names": data.get("class_names", [])}
    if not isinstance(result.get("class_names"), list):
        raise errors.UserError(
            f"{where.path}: its result does not name the classes; train again"
        )
    return _config(where.path), result


def _config(run: str) -> config.Config:
    path = os.path.join(run, "config.json")
    with filesystem.reading(path):
        text = filesystem.read(path)
    try:
        return config_values.from_json(text)
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None


def digest(path: str) -> str:
    """Returns the SHA-256 of the .npz that `path` stands for, see `weights_file`.

    Raises:
        errors.UserError: see `locate`.
    """
    file = weights_file(path)
    with local_copy(file) as local, filesystem.reading(file):
        return identity.digest_file(local)


@functools.cache
def _extracted(run: str, step: int) -> str:
    """Writes a temporary .npz with the weights of a checkpoint, in the released layout."""
    cfg, result = read_run(f"{run}@step_{step}")
    model = build.build(
        cfg.model,
        num_classes=len(result["class_names"]),
        image_size=cfg.data.image_size,
    )
    folder = os.path.join(run, "checkpoints")
    checkpoint.load_model(model, folder, step)
    home = tempfile.mkdtemp(prefix="vit_tf_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    path = os.path.join(home, f"step_{step:08d}.npz")
    npz_weights.save_released(model, path)
    return path


def start_from(
    model: network.Network, path: str, *, class_names: Sequence[str]
) -> list[str]:
    """Loads the weights that `path` names (see `locate`) for transfer.

    The head is replaced by the model's zero-initialised one (section 3.2), unless
    the run had these very classes and head layers. A file does not say which
    classes it knows, so its head is always replaced. Position embeddings are
    resized to the model's grid (3.4). What a run's objective owned stays behind.

    Returns:
        Lines that say what was loaded, resized and left out.
    """
    try:
        where, file = locate(path), weights_file(path)
    except errors.UserError as refusal:
        raise errors.UserError(f"start_from={refusal}") from None
    head, left = npz_weights.Head.RESET, []
    if where.is_run:
        owned = _objective_arrays(where.path) if where.step is None else {}
        cfg, result = read_run(path)
        same_layers = cfg.model.pre_logits == model.has_pre_logits
        if same_layers and result["class_names"] == list(class_names):
            head = npz_weights.Head.KEEP
        if owned:
            task = cfg.objective.task
            left = [f"left behind, the objective {task}'s own: {_listed(owned)}"]
    return load_weights(model, file, head=head) + left


def load_weights(
    model: network.Network,
    path: str,
    *,
    head: npz_weights.Head = npz_weights.Head.KEEP,
) -> list[str]:
    """Loads an .npz from any path of tf.io.gfile; see `npz_weights.load_released`.

    Raises:
        errors.UserError: weights that are not finite, and what that function refuses.
    """
    with local_copy(path) as file:
        lines = npz_weights.load_released(model, file, head=head)
    bad = [v.path for v in model.variables if not np.isfinite(v.numpy()).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if bad[1:] else ""
        raise errors.UserError(
            f"{path}: holds numbers that are not finite (NaN or inf) in {bad[0]}{more}; "
            "the training that wrote it diverged, or the file is damaged: take an "
            "earlier checkpoint or another file"
        )
    return lines


def save_weights(model: network.Network, path: str) -> None:
    """Writes the model's weights in the released .npz layout, whole or not."""
    write_weights(path, npz_weights.released(model))


def write_weights(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz to any path of tf.io.gfile, whole or not."""
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "weights.npz")
        npz_weights.write_npz(local, arrays)
        with filesystem.refusing(path):
            try:
                tf.io.gfile.copy(local, f"{path}.unfinished", overwrite=True)
                tf.io.gfile.rename(f"{path}.unfinished", path, overwrite=True)
            except tf.errors.OpError:
                if tf.io.gfile.exists(f"{path}.unfinished"):
                    tf.io.gfile.remove(f"{path}.unfinished")
                raise


def save_objective(variables: Sequence, workdir: str) -> None:
    """Writes the variables of an objective, if it has any, into a run's folder."""
    if arrays := {v.path: v.numpy() for v in variables}:
        write_weights(os.path.join(workdir, OBJECTIVE), arrays)


def load_objective(variables: Sequence, workdir: str) -> None:
    """Gives an objective's variables what `save_objective` wrote of one like it.

    Raises:
        errors.UserError: another one's.
    """
    arrays = _objective_arrays(workdir)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {v.path: tuple(v.shape) for v in variables}:
        raise errors.UserError(
            f"{os.path.join(workdir, OBJECTIVE)}: holds {_listed(arrays) or 'nothing'}, "
            "which is not what this objective learns; finish that run again"
        )
    for variable in variables:
        variable.assign(arrays[variable.path])


def _objective_arrays(workdir: str) -> dict[str, np.ndarray]:
    """Reads what the objective of a finished run owned; empty: nothing."""
    path = os.path.join(workdir, OBJECTIVE)
    if not tf.io.gfile.exists(path):
        return {}
    with local_copy(path) as file, np.load(file) as arrays:
        return dict(arrays)


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items())


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a local copy of a remote file, because models/ opens local files only."""
    if "://" not in path:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "weights.npz")
        with filesystem.reading(path):
            tf.io.gfile.copy(path, copy)
        yield copy
