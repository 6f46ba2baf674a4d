"""What stops a run, in one line that says what to do: numbers, data, memory."""

import contextlib
import math
from collections.abc import Iterator

import tensorflow as tf

from vit_tf import errors
from vit_tf.data import (
    failing_records,
)
from vit_tf.runs import checkpoint
from vit_tf.runtime import multihost
from vit_tf.training import setup

_SHOWN = 16  # data indices in a line


class Diverged(errors.UserError):
    """The numbers of a run left the finite ones: it would do so again."""


class StepMonitor:
    """Checks the numbers, the data and the memory of one run's steps.

    Args:
        prepared: the run. Its weights are checked before they are saved, and its data
            say what was in a batch.
        checkpoints: what was saved; saves before bad data stop the run.
        processes: those that train the run.
    """

    def __init__(
        self,
        prepared: setup.TrainingSetup,
        checkpoints: checkpoint.CheckpointManager,
        processes: multihost.Processes,
    ):
        self.checkpoints, self.processes = checkpoints, processes
        self._data, self._train = prepared.cfg.data, prepared.cfg.train
        self._remat, self._sources = prepared.cfg.model.remat, prepared.sources
        state = prepared.state
        self._optimizer = state.optimizer
        self._weights = [*state.model.variables, *state.objective.variables]

    def check_steps(self, values: dict[str, list[float]], *, done: int) -> list[str]:
        """Stops before anything is saved when a step's numbers are not finite.

        Args:
            values: what `step.build` reports, a number for each step.
            done: the last of these steps.

        Returns:
            Lines about the bad steps that were skipped.

        Raises:
            Diverged: one more than train.skip_bad_steps.
        """
        lines = []
        counts = values.get("bad_steps")
        for i, (loss, norm) in enumerate(zip(values["loss"], values["gradient_norm"])):
            if math.isfinite(loss) and math.isfinite(norm):
                continue
            bad = done - len(values["loss"]) + i + 1
            what = f"step {bad}: loss {loss}, gradient norm {norm}"
            if counts is None:
                self._stop(f"{what}, {self._indices(bad)}")
            if counts[i] > self._train.skip_bad_steps:
                number = f"bad step number {counts[i]:.0f}"
                self._stop(f"{what}, {number}, {self._indices(bad)}")
            overflow = self._optimizer.scales and math.isfinite(loss)
            if not overflow:
                lines.append(f"{what}: skipped; {self._indices(bad)}")
        return lines

    def check_weights(self, *, done: int) -> None:
        """Stops before weights are saved that the last update made non-finite."""
        for variable in (*self._weights, *self._optimizer.averages):
            if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
                self._stop(f"step {done}: {variable.path} is not finite")

    @contextlib.contextmanager
    def naming_failures(self) -> Iterator[None]:
        """Names the record that cannot be read, or the knob that saves memory."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise errors.UserError(self._memory()) from error
        except tf.errors.OpError as error:
            if self.processes.is_loss(error):
                raise
            self._name_bad_data(error)
            raise

    def _name_bad_data(self, error: tf.errors.OpError) -> None:
        """Saves what was trained, where data are to blame."""
        done = int(self._optimizer.iterations.numpy())
        culprit = failing_records.find_in_batch(
            self._sources, self._data, seed=self._train.seed, step=done
        )
        if culprit is None:
            return
        if done not in (0, *self.checkpoints.steps()):
            self.checkpoints.save(done)
            self.checkpoints.wait()
        raise errors.UserError(
            f"step {done + 1}: {culprit}; mend it and prepare the data again, then "
            "the same command goes on"
        ) from error

    def _memory(self) -> str:
        train, size = self._train, self._data.batch_size
        knobs = [f"train.accumulation={2 * train.accumulation}"]
        if not self._remat:
            knobs.append("model.remat=true")
        return (
            f"out of memory with data.batch_size={size} and train.accumulation="
            f"{train.accumulation}: set {' or '.join(knobs)}, which leave the result "
            "as it is, or take more devices or a smaller data.batch_size; another "
            "config needs another --workdir"
        )

    def _indices(self, step: int) -> str:
        """Lists the data of a step, in words."""
        rows_of = failing_records.batch_indices(
            self._sources, self._data, seed=self._train.seed, step=step - 1
        )
        sets = []
        for name, rows in rows_of.items():
            shown = ", ".join(map(str, rows[:_SHOWN]))
            more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            sets.append(f"{name} {shown}{more}")
        return f"data indices {'; '.join(sets)}"

    def _stop(self, what: str) -> None:
        whole = self.checkpoints.steps()
        last = f"the checkpoint of step {whole[-1]}" if whole else "no checkpoint"
        raise Diverged(
            f"{what}; stopped with {last} in {self.checkpoints.folder}; try a lower "
            "optim.lr, a longer optim.warmup_steps or optim.clip_norm=1, in another "
            "--workdir"
        )
