"""The authors' released .npz files (vit_jax/checkpoint.py), in and out of a model."""

import enum
import os
import zipfile
import zlib
from typing import BinaryIO

import keras
import numpy as np

from vit_tf import errors
from vit_tf.models import npz_layouts

# The last layer of a Transformer, and of a ResNet.
_HEADS = {
    "head/kernel": "head/bias",
    "resnet/head/conv2d/kernel": "resnet/head/conv2d/bias",
}
_PRE_LOGITS = ("pre_logits/kernel", "pre_logits/bias")

# Ends of the names of arrays that are resized to another grid.
RESIZED = ("/pos_embedding", "/x_embedding", "/y_embedding")

_SHOWN = 3  # arrays named per kind of problem; the rest is counted


class Head(enum.StrEnum):
    """What a load does with the layers after pooling."""

    KEEP = "keep"  # everything in the file must fit
    # The last layer stays as initialised, and a `pre_logits` that the model lacks
    # is dropped: the paper's fine-tuning (section 3.2).
    RESET = "reset"


def read_npz(
    file: str | os.PathLike | BinaryIO,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of a released file under our names, whichever layout it has.

    Pickled data is never read.

    Returns:
        The arrays, and lines that say what `layouts.to_ours` changed.

    Raises:
        errors.UserError: missing or damaged file, another format, object arrays.
    """
    try:
        if not isinstance(file, str | os.PathLike):
            return npz_layouts.to_ours(_read_arrays(file))
        with open(file, "rb") as opened:
            return npz_layouts.to_ours(_read_arrays(opened))
    except OSError as error:
        problem = error.strerror or str(error)
    # What zipfile and numpy raise for files cut short, damaged, or of another kind.
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        problem = f"damaged or not an .npz ({_first_line(error)})"
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        problem = f"not an .npz of plain arrays ({_first_line(error)})"
    raise errors.UserError(
        f"weights {_name(file)}: {problem}; need a released .npz such as ViT-B_16.npz"
    )


def released(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the model's weights under the names of the released files, float32."""
    variables = _variables(model)
    return {
        name: keras.ops.convert_to_numpy(value) for name, value in variables.items()
    }


def save_released(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a file that `load_released` reads back bit for bit."""
    write_npz(path, released(model))


def write_npz(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to a file that appears whole or not at all.

    Raises:
        errors.UserError: the folder is missing, the disk is full.
    """
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        try:
            with open(partial, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.remove(partial)
    except OSError as error:
        problem = error.strerror or str(error)
        raise errors.UserError(f"weights {path}: not written: {problem}") from None


def load_released(
    model: keras.Model, path: str | os.PathLike | BinaryIO, head: Head = Head.KEEP
) -> list[str]:
    """Loads a released file, resizing its position embeddings where needed.

    Args:
        model: from `build.build`.
        path: local path, or a file opened for reading bytes. For a path such as
            gs://bucket/file.npz: `stored_weights.load_weights`.
        head: whether the last layer comes from the file.

    Returns:
        Lines that say what was done: loaded, resized, dropped, left as it was.

    Raises:
        errors.UserError: what `read_npz` and `assign` refuse.
    """
    given, lines = read_npz(path)
    first, *rest = assign(model, given, name=_name(path), head=head)
    return [first, *lines, *rest]


def assign(
    model: keras.Model,
    arrays: dict[str, np.ndarray],
    *,
    name: str,
    head: Head = Head.KEEP,
) -> list[str]:
    """Gives a model the arrays that `read_npz` found; see `load_released`.

    All arrays are checked before the first is assigned: a refused file leaves
    the model as it was.

    Args:
        name: of the file, for messages.

    Raises:
        errors.UserError: arrays missing, not known to the model, or of another shape.
    """
    given, wanted, lines = dict(arrays), _variables(model), []
    if Head(head) is Head.RESET:
        lines += _drop_head(given, wanted)
    lines += _fit_positions(given, wanted)
    if problems := _problems(given, wanted):
        raise errors.UserError(
            f"weights {name} do not fit {model.name}: "
            + "; ".join(problems)
            + _remedy(given, wanted)
        )
    for key, variable in wanted.items():
        variable.assign(given[key])
    for key in _HEADS:
        if key in wanted and not given[key].any():
            lines.append(f"{key} is all zeros in the file: logits equal the bias")
    return [f"{name}: {len(wanted)} arrays loaded into {model.name}", *lines]


def resize_positions(table: np.ndarray, tokens: int) -> np.ndarray:
    """Resizes position embeddings to another square grid (paper section 3.2).

    Linear between grid points with corners aligned, as the authors' call of
    scipy.ndimage.zoom(order=1): not the half-pixel rule of tf.image.resize.

    Args:
        table: (1, rows, width); the grid in raster order, after the row of the
            class token if there is one, which is copied.
        tokens: rows of the result, again with or without the class token.

    Returns:
        (1, tokens, width), in the dtype of `table`.

    Raises:
        ValueError: a grid that is not square; a class token on one side only.
    """
    rows = table.shape[1]
    old, new = round((rows - 1) ** 0.5), round((tokens - 1) ** 0.5)
    first = 1
    if old**2 + 1 != rows or new**2 + 1 != tokens or old == 0 or new == 0:
        old, new, first = round(rows**0.5), round(tokens**0.5), 0
        if old**2 != rows or new**2 != tokens:
            raise ValueError(f"{rows} rows to {tokens}: not from square to square")
    grid = table[0, first:].reshape(old, old, -1).astype(np.float64)
    matrix = _linear(old, new)
    grid = np.einsum("ai,bj,ijd->abd", matrix, matrix, grid, optimize=True)
    grid = grid.reshape(1, new * new, -1).astype(table.dtype)
    return np.concatenate([table[:, :first], grid], axis=1)


def _linear(old: int, new: int) -> np.ndarray:
    """Computes (new, old) float64: row i interpolates at i * (old - 1) / (new - 1)."""
    where = np.arange(new) * ((old - 1) / max(new - 1, 1))
    return np.maximum(0, 1 - np.abs(where[:, None] - np.arange(old)))


def _read_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    archive = np.load(file, allow_pickle=False)
    if not hasattr(archive, "files"):
        raise ValueError("a single array")
    with archive:
        # What is left out is not read, which is most of a training checkpoint.
        arrays = {
            name: np.zeros(0) if _is_training_state(name) else archive[name]
            for name in archive.files
        }
    for name, array in arrays.items():
        kind = getattr(array, "dtype", "no array")
        # Two bytes without a type are how NumPy stores bfloat16.
        plain = isinstance(array, np.ndarray) and (kind.kind == "f" or kind == "V2")
        if not plain:
            raise ValueError(f"{name} is {kind}, not floating point")
    return arrays


def _is_training_state(name: str) -> bool:
    """Returns whether an array is the optimizer's or the clock's, of whatever type.

    Training checkpoints of big_vision have `params/`, `opt/` and `chrono/` in one file;
    those of vit_jax the weights below `opt/target/`.
    """
    return name.startswith(("opt/", "chrono/")) and not name.startswith("opt/target/")


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    prefix = f"{model.path}/"
    return {weight.path.removeprefix(prefix): weight for weight in model.weights}


def _drop_head(given: dict, wanted: dict) -> list[str]:
    """Takes out what `Head.RESET` leaves alone, and says so."""
    lines = []
    classes = [
        side[bias].shape[0]
        for bias in _HEADS.values()
        for side in (wanted, given)
        if bias in side
    ]
    for name in (*_HEADS, *_HEADS.values()):
        wanted.pop(name, None)
        given.pop(name, None)
    if classes:
        lines.append(
            "head: left as initialised "
            f"(classes of the model, then of the file: {classes})"
        )
    if _PRE_LOGITS[0] in given and _PRE_LOGITS[0] not in wanted:
        for name in _PRE_LOGITS:
            given.pop(name, None)
        lines.append("pre_logits: in the file, not in the model, dropped")
    return lines


def _fit_positions(given: dict, wanted: dict) -> list[str]:
    """Puts tables for the model's grid into `given` where that can be."""
    lines = {}
    for name, variable in wanted.items():
        if name not in given or given[name].shape == tuple(variable.shape):
            continue
        table, shape = given[name], tuple(variable.shape)
        if name.endswith("/pos_embedding") and table.ndim == len(shape) == 3:
            resized, sides = _fit_grid(table, shape)
        elif name.endswith(("/x_embedding", "/y_embedding")) and table.ndim == 2:
            resized, sides = _fit_axis(table, shape)
        else:
            continue
        if resized is not None:
            given[name] = resized
            line = "position embeddings: resized from {0}x{0} to {1}x{1}"
            lines[line.format(*sides)] = None
    return list(lines)


def _fit_grid(table: np.ndarray, shape: tuple) -> tuple:
    """Fits the table to another grid: the table and both sides,
    or None if it cannot be.
    """
    if table.shape[::2] != shape[::2]:
        return None, ()
    try:
        resized = resize_positions(table, shape[1])
    except ValueError:
        return None, ()
    return resized, [int(rows**0.5) for rows in (table.shape[1], shape[1])]


def _fit_axis(table: np.ndarray, shape: tuple) -> tuple:
    """Fits the columns or rows of a 2-D embedding, which is a sum of both."""
    if table.shape[1] != shape[1]:
        return None, ()
    sides = (len(table), shape[0])
    return (_linear(*sides) @ table).astype(table.dtype), sides


def _problems(given: dict, wanted: dict) -> list[str]:
    """Lists one phrase for each kind of mismatch, none if all fits."""
    both = [name for name in wanted if name in given]
    shapes = [
        f"{name} (file {given[name].shape}, model {tuple(wanted[name].shape)})"
        for name in both
        if given[name].shape != tuple(wanted[name].shape)
    ]
    kinds = {
        "missing in the file": [name for name in wanted if name not in given],
        "not in the model": [name for name in given if name not in wanted],
        "of another shape": shapes,
    }
    phrases = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            phrases.append(f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}")
    return phrases


def _remedy(given: dict, wanted: dict) -> str:
    """Gives advice where nothing but the layers after pooling stands in the way."""
    tops = (*_HEADS, *_HEADS.values(), *_PRE_LOGITS)
    body = [
        {name: array for name, array in side.items() if name not in tops}
        for side in (given, wanted)
    ]
    if _problems(*body):
        return ""
    return (
        "; only the head differs: to start from these weights with a new head, load "
        "with head=reset (as --config.start_from does)"
    )


def _name(file) -> str:
    if isinstance(file, str | os.PathLike):
        return os.fspath(file)
    return str(getattr(file, "name", "file"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "empty"
