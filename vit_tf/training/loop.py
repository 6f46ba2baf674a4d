"""The only loop: train(config, workdir) leaves a finished run, or one to resume.

Order that must not change: the row of a step, then its checkpoint, then what hooks do
after it (its evaluation first). So no checkpoint lies ahead of its rows, a failing
evaluation loses no training, and resuming writes again, equal to the digit, what came
after the checkpoint.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from vit_tf import config
from vit_tf.runs import checkpoint, hooks, run_directory, stored_weights
from vit_tf.runtime import devices, multihost, signals, timing
from vit_tf.training import failures, setup, step

# Makes the hooks of a run that are no part of training, such as drawings.
MakeHooks = Callable[
    [run_directory.RunDirectory, setup.TrainingSetup], Sequence[hooks.Hook]
]


def train(
    cfg: config.Config,
    workdir: str,
    *,
    machine: devices.Runtime,
    data_dir: str | None = None,
    more_hooks: MakeHooks = lambda run, prepared: (),
) -> dict[str, Any] | None:
    """Trains, evaluates and records one run; resumes it if it was cut off.

    Args:
        cfg: what to train.
        workdir: the run's folder; runs/run_directory.py says what it holds.
        machine: devices and strategy, from `devices.start`.
        data_dir: where prepared data sets lie; None: the TFDS default.
        more_hooks: called after the steps that they name, behind the evaluation.

    Returns:
        What result.json holds, or None when a signal stopped the run early.

    Raises:
        errors.UserError: trouble that the user can mend, in one line.
    """
    processes = machine.processes
    with (
        processes.losing_one(),
        _opened(cfg, workdir, processes) as run,
        signals.stop_requests() as stop,
    ):
        if (result := run.result()) is not None:
            return result
        prepared = setup.prepare(cfg, machine, data_dir=data_dir)
        state, total = prepared.state, prepared.total_steps
        take_steps = step.build(
            state,
            data=cfg.data,
            train=cfg.train,
            optim=cfg.optim,
            strategy=machine.strategy,
            jit_compile=machine.jit_compile,
        )
        checkpoints = prepared.checkpoints(run)
        monitor = failures.StepMonitor(prepared, checkpoints, processes)
        timer = timing.StepTimer(cfg.data.batch_size, seconds=run.seconds())

        log = hooks.Every(cfg.train.log_every_steps, total)
        save = hooks.Every(cfg.train.checkpoint_every_steps, total)
        after = [hook(prepared, run) for hook in (SaveWeights, Evaluation)]
        after += more_hooks(run, prepared)
        stops = [log, save, *(hook.when for hook in after)]

        done, loaded = _restore_or_start(cfg.start_from, prepared, checkpoints)
        processes.agree("the step to go on from", done)
        run.begin(done, data=prepared.data_facts())
        batches = prepared.batches(machine.strategy, start_step=done)
        display = prepared.display(done, silent=not processes.chief)
        with checkpoints.finishing(), display:
            display.say(*loaded)
            while True:
                if done == total:
                    checkpoints.wait()  # nothing of the end before the last checkpoint
                for hook in [hook for hook in after if done in hook.when]:
                    with timer.paused(), state.averaged():
                        display.say(*hook(done))
                if done == total:
                    break

                stop_at = hooks.next_stop(done, stops)
                stop_at = min(stop_at, done + cfg.train.steps_per_loop)
                with monitor.naming_failures():
                    values = take_steps(batches, tf.constant(stop_at - done))
                    values = {name: v.numpy().tolist() for name, v in values.items()}
                display.say(*monitor.check_steps(values, done=stop_at))
                timer.tick(stop_at - done)
                done = stop_at
                display.update(done, loss=values["loss"][-1], rate=timer.rate)

                if done in log:
                    run.write({"step": done, **_last(values), **timer.row()})
                stopping = processes.any(bool(stop))  # once: it may change at any time
                if done in save or stopping:
                    with timer.paused():
                        monitor.check_weights(done=done)
                        checkpoints.save(done)
                if stopping:
                    checkpoints.wait()
                    processes.wait()
                    display.say(stop.sentence(done))
                    return None
        return _finish(run, prepared, machine)


@dataclasses.dataclass
class SaveWeights:
    """The hook that writes the final weights, before an evaluation can fail."""

    prepared: setup.TrainingSetup
    run: run_directory.RunDirectory

    @property
    def when(self) -> hooks.Every:
        """After the last step."""
        return hooks.Every(None, self.prepared.total_steps)

    def __call__(self, step: int) -> list[str]:
        """Writes weights.npz, and what the objective learned besides."""
        del step
        if self.run.writes:
            state, run = self.prepared.state, self.run
            stored_weights.save_weights(state.model, run.path("weights.npz"))
            stored_weights.save_objective(state.objective.variables, run.workdir)
        return []


@dataclasses.dataclass
class Evaluation:
    """The hook that evaluates a run and writes a row for every number."""

    prepared: setup.TrainingSetup
    run: run_directory.RunDirectory

    @property
    def when(self) -> hooks.Every:
        """After every `evals.every_steps`, and at the end."""
        return hooks.Every(
            self.prepared.cfg.evals.every_steps, self.prepared.total_steps
        )

    def __call__(self, step: int) -> list[str]:
        """Evaluates after `step` steps; a line for every number."""
        lines = []
        for metric in self.prepared.evaluate():
            self.run.write({"step": step, **dataclasses.asdict(metric)})
            lines.append(f"step {step}: {metric}")
        return lines


@contextlib.contextmanager
def _opened(
    cfg: config.Config, workdir: str, processes: multihost.Processes
) -> Iterator[run_directory.RunDirectory]:
    """Opens the run's folder, which the first process writes and all have to see."""
    processes.check_same(cfg, workdir)
    with run_directory.RunDirectory(workdir, cfg, writes=processes.chief) as run:
        yield run


def _restore_or_start(
    start_from: str | None,
    prepared: setup.TrainingSetup,
    checkpoints: checkpoint.CheckpointManager,
) -> tuple[int, list[str]]:
    """Loads what there is: the step to go on from, and lines that say what it was."""
    if done := checkpoints.restore():
        return done, [f"resumed at step {done}"]
    lines, state = [], prepared.state
    if start_from is not None:
        lines = stored_weights.start_from(
            state.model, start_from, class_names=prepared.class_names
        )
    state.optimizer.start_average()
    return 0, lines


def _last(values: dict[str, list[float]]) -> dict[str, float]:
    """Returns the last step's numbers for a row, without those of a skipped step."""
    last = {name: v[-1] for name, v in values.items() if math.isfinite(v[-1])}
    return {n: int(v) if n in step.COUNTS else v for n, v in last.items()}


def _finish(
    run: run_directory.RunDirectory,
    prepared: setup.TrainingSetup,
    machine: devices.Runtime,
) -> dict[str, Any] | None:
    """Writes the result, whose presence says that all else is there."""
    cfg, state, total = prepared.cfg, prepared.state, prepared.total_steps
    rows = run_directory.read_rows(run.workdir)
    metrics = [
        {key: row[key] for key in ("split", "name", "value", "count")}
        for row in rows
        if row["step"] == total and "split" in row
    ]
    result = {
        **run_directory.describe(cfg, device=machine.device, dataset=prepared.dataset),
        "class_names": prepared.class_names,
        "parameters": state.model.count_params(),
        "steps": total,
        "examples_seen": total * cfg.data.batch_size,
        **state.optimizer.counts(),
        "train_seconds": run.seconds(),
        "metrics": metrics,
    }
    run.finish(result)
    machine.processes.wait()
    return run.result()
