"""Checkpoints of a run: whole or not there, saved while training goes on.

A checkpoint is a folder `step_00001200` with TensorFlow's files and, written
last, `complete.json`. A folder without that file is an interrupted write.
"""

import concurrent.futures
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from vit_tf import errors
from vit_tf.models import network
from vit_tf.runtime import filesystem

_NAME = re.compile(r"^step_(\d{8})$")
_LEFT = re.compile(r"^step_\d{8}(\.unfinished)?$")  # whole or not
_MARK = "complete.json"
_END = "/.ATTRIBUTES/VARIABLE_VALUE"  # of the names in TensorFlow's files
_PARTS = ("model/", "objective/", "optimizer/")


class CheckpointManager:
    """Saves and restores model, objective and optimizer; keeps a few.

    A checkpoint is copied to host memory at once and written beside the steps that
    follow: the copy is exact, and a run that dies before it is whole goes on from the
    one before, to the same numbers.

    Args:
        folder: where the checkpoints of one run lie; any path of tf.io.gfile.
        owned: variables of the objective.
        keep: how many of the newest stay.
        every: checkpoints of multiples of it stay as well; None: none does.
        best: which of the steps it is given stays as the best; None: none does.
        writes: false in the processes that train with the one that saves.
    """

    def __init__(
        self,
        folder: str,
        *,
        model,
        optimizer,
        owned: Sequence = (),
        keep: int,
        every: int | None = None,
        best: Callable[[list[int]], int | None] | None = None,
        writes: bool = True,
    ):
        self.folder = folder
        self.keep, self.every, self.best = keep, every, best
        self.writes = writes
        self._parts = {
            "model": _named(model.variables),
            "optimizer": _named(optimizer.variables),
        }
        if owned:
            self._parts["objective"] = _named(owned)
        # A daemon would be cut off where the process ends; this one is waited for.
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future | None = None

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first; waits for one being written."""
        self.wait()
        return saved_steps(self.folder)

    def save(self, step: int) -> None:
        """Copies the state of `step`, which is then written while training goes on.

        Waits for the checkpoint before it. When this one is whole, those that need
        not stay are dropped.

        Raises:
            errors.UserError: see `wait`.
        """
        if not self.writes:
            return
        before = self.steps()
        # Now, because the evaluations that it goes by are still going on later.
        best = self.best([*before, step]) if self.best else None
        self._writing = self._writer.submit(self._write, step, best, self._copy())

    def wait(self) -> None:
        """Waits until the last checkpoint is whole.

        Raises:
            errors.UserError: the disk is full or cannot be written; checkpoints
                that were there before are untouched.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Leaves no write going on behind, however the body ends."""
        try:
            yield
        except BaseException:
            if self._writing is not None:  # what failed here matters more
                concurrent.futures.wait([self._writing])
            raise
        self.wait()

    def _copy(self) -> dict[str, dict[str, tf.Variable]]:
        with tf.device("CPU"):
            return {
                part: {
                    n: tf.Variable(tf.constant(v.numpy())) for n, v in variables.items()
                }
                for part, variables in self._parts.items()
            }

    def _write(self, step: int, best: int | None, copies) -> None:
        final = os.path.join(self.folder, f"step_{step:08d}")
        unfinished = f"{final}.unfinished"
        try:
            filesystem.remove(unfinished)
            tf.io.gfile.makedirs(unfinished)
            _state(copies).write(os.path.join(unfinished, "state"))
            filesystem.remove(final)
            tf.io.gfile.rename(unfinished, final)
            filesystem.write_whole(
                os.path.join(final, _MARK), json.dumps({"step": step})
            )
        except (tf.errors.OpError, OSError, errors.UserError) as error:
            filesystem.remove(unfinished)
            whole = [s for s in saved_steps(self.folder) if s != step]
            last = f"the one of step {whole[-1]} is whole" if whole else "there is none"
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise errors.UserError(
                f"cannot save the checkpoint of step {step} in {self.folder}: "
                f"{filesystem.reason(cause)}; {last}; free some space and run the same "
                "command again"
            ) from error
        for old in saved_steps(self.folder)[: -self.keep]:
            if old != best and not (self.every and old % self.every == 0):
                filesystem.remove(os.path.join(self.folder, f"step_{old:08d}"))

    def restore(self) -> int:
        """Restores the newest checkpoint; the step it was saved at, or 0.

        Raises:
            errors.UserError: it cannot be read or belongs to another model.
        """
        steps = self.steps()
        if self.writes:
            self._sweep(steps)
        if not steps:
            return 0
        path = os.path.join(self.folder, f"step_{steps[-1]:08d}")
        check_step(path, steps[-1])
        try:
            self._check_names(path)
            status = _state(self._parts).read(os.path.join(path, "state"))
            status.assert_existing_objects_matched()
        except errors.UserError:
            raise
        except Exception as error:  # TensorFlow raises many kinds for damaged files
            before = f"step {steps[-2]}" if len(steps) > 1 else "the beginning"
            raise errors.UserError(
                f"checkpoint {path} cannot be read: {filesystem.reason(error)}; remove that "
                f"folder to go on from {before}"
            ) from error
        return steps[-1]

    def _check_names(self, path: str) -> None:
        """Refuses a checkpoint whose arrays are not those of model and optimizer."""
        reader = tf.train.load_checkpoint(os.path.join(path, "state"))
        saved = {
            name.removesuffix(_END): tuple(shape)
            for name, shape in reader.get_variable_to_shape_map().items()
            if name.startswith(_PARTS) and "save_counter" not in name
        }
        ours = {
            f"{part}/{name}": tuple(variable.shape)
            for part, variables in self._parts.items()
            for name, variable in variables.items()
        }
        differing = [
            f"{name} {saved.get(name, 'is not')} there, {ours.get(name, 'is not')} here"
            for name in sorted(saved.keys() | ours.keys())
            if saved.get(name) != ours.get(name)
        ]
        if differing:
            kinds = {name.split("/")[0] for name in differing}
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise errors.UserError(
                f"checkpoint {path} is of another {' and '.join(sorted(kinds))} "
                f"({differing[0]}{more}); choose another --workdir"
            )

    def _sweep(self, whole: list[int]) -> None:
        """Removes what interrupted writes have left."""
        if not tf.io.gfile.isdir(self.folder):
            return
        kept = {f"step_{step:08d}" for step in whole}
        for name in tf.io.gfile.listdir(self.folder):
            if _LEFT.match(name.rstrip("/")) and name.rstrip("/") not in kept:
                filesystem.remove(os.path.join(self.folder, name))


def saved_steps(folder: str) -> list[int]:
    """Steps of the whole checkpoints in `folder`, oldest first."""
    if not tf.io.gfile.isdir(folder):
        return []
    steps = []
    for name in tf.io.gfile.listdir(folder):
        match = _NAME.match(name.rstrip("/"))
        if match and tf.io.gfile.exists(os.path.join(folder, match[0], _MARK)):
            steps.append(int(match[1]))
    return sorted(steps)


def check_step(path: str, step: int) -> None:
    """Refuses a checkpoint whose folder was renamed to another step.

    Raises:
        errors.UserError: `complete.json` in it has another step, or is damaged.
    """
    remedy = f"remove the folder {path} to go on from the checkpoint before it"
    mark = os.path.join(path, _MARK)
    saved = filesystem.read_json(mark, remedy).get("step")
    if saved != step:
        raise errors.UserError(
            f"{path}: holds the state of step {saved}; give the folder its name back, "
            f"or {remedy}"
        )


def load_model(model: network.Network, folder: str, step: int) -> None:
    """Gives a model the weights of one checkpoint, averaged where an average is kept.

    Args:
        model: as the run built it.
        folder: of the run's checkpoints.
        step: of the checkpoint.

    Raises:
        errors.UserError: it cannot be read, or is of another model.
    """
    path = os.path.join(folder, f"step_{step:08d}")
    check_step(path, step)
    try:
        reader = tf.train.load_checkpoint(os.path.join(path, "state"))
        shapes = reader.get_variable_to_shape_map()
        names = {key.removesuffix(_END): key for key in shapes if key.endswith(_END)}
        values = {}
        for name, variable in _named(model.variables).items():
            averages = [k for k in names if k.endswith(f"{name}_polyak")]
            key = averages[0] if averages else f"model/{name}"
            values[name] = reader.get_tensor(names[key])
        for name, variable in _named(model.variables).items():
            variable.assign(values[name])
    except (tf.errors.OpError, KeyError, ValueError, RuntimeError) as error:
        raise errors.UserError(
            f"checkpoint {path} cannot be read: {filesystem.reason(error)}; name "
            "another step of that run"
        ) from error


def _named(variables) -> dict[str, tf.Variable]:
    """Variables under stable names: their Keras paths."""
    named: dict[str, tf.Variable] = {}
    for variable in variables:
        name = re.sub(r"[^\w]", "_", variable.path)
        if name in named:
            raise ValueError(f"two variables named {variable.path}")
        named[name] = variable.value
    return named


def _state(parts: dict[str, dict[str, tf.Variable]]) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(
        **{part: tf.train.Checkpoint(**named) for part, named in parts.items()}
    )
