"""The only loop: train(config, workdir) leaves a finished run, or one to resume.

Order that must not change: the row of a step, then its checkpoint, then its
evaluation. So no checkpoint lies ahead of its rows, a failing evaluation loses no
training, and resuming writes again, equal to the digit, what came after the
checkpoint.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from vit_tf import (
    checkpoint,
    config,
    evaluators,
    objectives,
    optim,
    record,
    runtime,
    step,
)
from vit_tf.data import mixture, pipeline, prepared, subsets
from vit_tf.models import build


def train(
    cfg: config.Config,
    workdir: str,
    *,
    machine: runtime.Runtime,
    data_dir: str | None = None,
) -> dict[str, Any] | None:
    """Trains, evaluates and records one run; resumes it if it was cut off.

    Args:
        cfg: what to train.
        workdir: the run's folder; see record.py for what it holds.
        machine: devices and strategy, from `runtime.start`.
        data_dir: where prepared data sets lie; None: the TFDS default.

    Returns:
        What result.json holds, or None when a signal stopped the run early.

    Raises:
        config.Refused: trouble that the user can mend, in one line.
    """
    with record.Run(workdir, cfg) as run, runtime.stop_requests() as stop:
        if (result := run.result()) is not None:
            return result
        trainee = prepare(cfg, machine, data_dir=data_dir)
        take_steps = trainee.steps(cfg, machine)
        keeper = checkpoint.Keeper(
            run.path("checkpoints"),
            model=trainee.model,
            optimizer=trainee.optimizer,
            keep=cfg.train.keep_checkpoints,
        )

        done = keeper.restore()
        loaded = [f"resumed at step {done}"] if done else []
        if done == 0:
            if cfg.start_from is not None:
                loaded = trainee.start_from(cfg.start_from)
            trainee.optimizer.start_average()
        run.begin(done, data=trainee.data_facts(cfg))

        batches = stream(cfg, trainee.sources, machine, start_step=done)
        clock = _Clock(cfg.data.batch_size, seconds=run.seconds())
        total = trainee.total_steps
        with record.Progress(trainee.name, first=done, total=total) as progress:
            for line in loaded:
                progress.say(line)
            while True:
                if done == total or _divides(cfg.evals.every_steps, done):
                    with clock.paused(), averaged(trainee):
                        metrics = trainee.evaluate(cfg)
                    for metric in metrics:
                        run.write({"step": done, **dataclasses.asdict(metric)})
                        progress.say(_sentence(done, metric))
                if done == total:
                    break

                count = _until_next_stop(cfg, done=done, total=total)
                with _naming_bad_data(cfg, trainee, keeper):
                    values = take_steps(batches, tf.constant(count))
                done += count
                values = {name: v.numpy().tolist() for name, v in values.items()}
                _check_finite(values, done=done, keeper=keeper)
                clock.tick(count)
                progress.update(done, loss=values["loss"][-1], rate=clock.rate)

                if done == total or done % cfg.train.log_every_steps == 0:
                    last = {name: v[-1] for name, v in values.items()}
                    run.write({"step": done, **last, **clock.row()})
                stopping = bool(stop)  # read once: it may change at any time
                due = done == total or done % cfg.train.checkpoint_every_steps == 0
                if due or stopping:
                    with clock.paused():
                        _check_weights(trainee, done=done, keeper=keeper)
                        keeper.save(done)
                if stopping:
                    progress.say(
                        f"{stop.signal_name}: saved at step {done}; the same command "
                        "goes on from there"
                    )
                    return None

        with averaged(trainee):
            checkpoint.save_weights(trainee.model, run.path("weights.npz"))
        result = _result(cfg, run, trainee, machine)
        run.finish(result)
        return result


@dataclasses.dataclass
class Trainee:
    """What a run trains; its variables live in the strategy's scope."""

    sources: mixture.Mixture
    model: Any
    objective: objectives.Classification
    optimizer: optim.SummedGradients
    evaluator: evaluators.Classification
    total_steps: int

    @property
    def name(self) -> str:
        return f"{self.model.name} on {self.sources}"

    @property
    def source(self) -> prepared.Source:
        """The set that is evaluated: the only one, or the first of a mixture."""
        return self.sources.sources[0]

    @property
    def dataset(self) -> str:
        """The sets with their versions."""
        return " + ".join(f"{s.name} {s.version}" for s in self.sources.sources)

    def steps(self, cfg: config.Config, machine: runtime.Runtime):
        """The compiled step function of step.py."""
        return step.build(
            cfg,
            model=self.model,
            objective=self.objective,
            optimizer=self.optimizer,
            strategy=machine.strategy,
            jit_compile=machine.jit_compile,
        )

    def data_facts(self, cfg: config.Config) -> dict[str, Any]:
        """What fixes the stream of examples, and so must stay while resuming."""
        return {
            "dataset": self.dataset,
            "training_examples": _count(self.sources, cfg.data),
            "class_names": list(self.source.class_names),
        }

    def start_from(self, path: str) -> list[str]:
        """Loads other weights; the lines that say what was done."""
        names = self.source.class_names
        return checkpoint.start_from(self.model, path, class_names=names)

    def evaluate(self, cfg: config.Config) -> list[evaluators.Metric]:
        """Every metric of every split that the config names."""
        found = []
        for split in cfg.evals.splits:
            found += self.evaluator.evaluate(
                self.source, cfg.data, split, batch_size=cfg.evals.batch_size
            )
        return found


def prepare(
    cfg: config.Config, machine: runtime.Runtime, *, data_dir: str | None = None
) -> Trainee:
    """Opens the data and builds model, objective, optimizer and evaluator."""
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    source = sources.sources[0]
    if source.multi_label and cfg.objective.loss == config.Loss.SOFTMAX:
        raise config.Refused(
            f"data.name={cfg.data.name}: has several labels for an image, softmax "
            "takes one; use objective.loss=sigmoid"
        )
    protocol = getattr(source.row, "protocol", None)
    if protocol is not None and cfg.data.flip and not protocol.flip:
        raise config.Refused(
            f"data.flip=True: mirroring changes the labels of {source.name}; use "
            "data.flip=false, or experiments/vtab.py"
        )
    for split in cfg.evals.splits:
        source.num_examples(split)  # refuses an unknown split before training
    total = config.num_steps(
        cfg.train,
        batch_size=cfg.data.batch_size,
        num_examples=_count(sources, cfg.data),
    )
    runtime.seed(cfg.train.seed)  # the weights are a function of the config alone
    with machine.strategy.scope():
        model = build.build(
            cfg.model,
            num_classes=source.num_classes,
            image_size=cfg.data.image_size,
            dtype=str(cfg.train.precision),
        )
        if not model.pools:
            raise config.Refused(
                f"model.pool={cfg.model.pool}: gives logits for every token, training "
                "needs one vector per image; use token, gap or map"
            )
        optimizer = optim.build(
            cfg.optim, total_steps=total, variables=model.trainable_variables
        )
    objective = objectives.Classification(cfg.objective, num_classes=source.num_classes)
    evaluator = evaluators.Classification(
        model=model, objective=objective, strategy=machine.strategy
    )
    return Trainee(sources, model, objective, optimizer, evaluator, total)


def _count(sources: mixture.Mixture, data: config.Data) -> int:
    """Examples that an epoch counts: those of all sets, each once."""
    return sum(subsets.count(source, data) for source in sources.sources)


def stream(
    cfg: config.Config,
    sources: prepared.Source | mixture.Mixture,
    machine: runtime.Runtime,
    *,
    start_step: int,
) -> Iterator:
    """Training batches from `start_step` on, spread over the replicas."""
    dataset = machine.strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_stream(
            sources,
            cfg.data,
            seed=cfg.train.seed,
            start_step=start_step,
            num_hosts=context.num_input_pipelines,
            host_index=context.input_pipeline_id,
            num_replicas=context.num_replicas_in_sync,
        )
    )
    return iter(dataset)


@contextlib.contextmanager
def averaged(trainee: Trainee) -> Iterator[None]:
    """Puts the Polyak average, if there is one, in the place of the weights."""
    pairs = list(zip(trainee.model.trainable_variables, trainee.optimizer.averages))
    kept = [variable.numpy() for variable, _ in pairs]
    try:
        for variable, average in pairs:
            variable.assign(average.numpy())
        yield
    finally:
        for (variable, _), value in zip(pairs, kept):
            variable.assign(value)


class _Clock:
    """Seconds spent training, without evaluations and checkpoints."""

    def __init__(self, batch_size: int, *, seconds: float):
        self.batch_size = batch_size
        self.seconds = seconds
        self.rate = 0.0
        self._last = time.monotonic()
        self._steps, self._began = 0, seconds
        self._compiled = False

    def tick(self, steps: int) -> None:
        """Counts `steps` that ended now."""
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        self._steps += steps
        passed = max(self.seconds - self._began, 1e-9)
        self.rate = self._steps * self.batch_size / passed
        if not self._compiled:  # the rates after this one leave compilation out
            self._compiled = True
            self._steps, self._began = 0, self.seconds

    def row(self) -> dict[str, float]:
        """The timing fields of a row; the rate starts afresh after it."""
        found = {
            "images_per_second": round(self.rate, 1),
            "seconds": round(self.seconds, 3),
        }
        self._steps, self._began = 0, self.seconds
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield
        self._last = time.monotonic()


def _until_next_stop(cfg: config.Config, *, done: int, total: int) -> int:
    """Steps to take in one call: up to steps_per_loop, never past a stop."""
    stops = [cfg.train.log_every_steps, cfg.train.checkpoint_every_steps]
    if cfg.evals.every_steps:
        stops.append(cfg.evals.every_steps)
    return min(cfg.train.steps_per_loop, total - done, *(s - done % s for s in stops))


def _divides(every: int | None, done: int) -> bool:
    return every is not None and done > 0 and done % every == 0


def _check_finite(values, *, done: int, keeper: checkpoint.Keeper) -> None:
    """Stops before anything is saved when a step's numbers are not finite."""
    for i, (loss, norm) in enumerate(zip(values["loss"], values["gradient_norm"])):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            bad = done - len(values["loss"]) + i + 1
            _stop_diverged(f"step {bad}: loss {loss}, gradient norm {norm}", keeper)


def _check_weights(trainee: Trainee, *, done: int, keeper: checkpoint.Keeper) -> None:
    """Stops before weights are saved that the last update made non-finite."""
    for variable in (*trainee.model.variables, *trainee.optimizer.averages):
        if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
            _stop_diverged(f"step {done}: {variable.path} is not finite", keeper)


def _stop_diverged(what: str, keeper: checkpoint.Keeper) -> None:
    whole = keeper.steps()
    last = f"the checkpoint of step {whole[-1]}" if whole else "no checkpoint"
    raise config.Refused(
        f"{what}; stopped with {last} in {keeper.folder}; try a lower optim.lr, a "
        "longer optim.warmup_steps or optim.clip_norm=1, in another --workdir"
    )


@contextlib.contextmanager
def _naming_bad_data(
    cfg: config.Config, trainee: Trainee, keeper: checkpoint.Keeper
) -> Iterator[None]:
    """Turns a decode error into the name of the record; saves what was trained."""
    try:
        yield
    except tf.errors.OpError as error:
        done = int(trainee.optimizer.iterations.numpy())
        culprit = pipeline.find_corrupt(
            trainee.sources, cfg.data, seed=cfg.train.seed, step=done
        )
        if culprit is None:
            raise
        if done not in (0, *keeper.steps()):
            keeper.save(done)
        raise config.Refused(
            f"step {done + 1}: {culprit}; mend it and prepare the data again, then "
            "the same command goes on"
        ) from error


def _sentence(done: int, metric: evaluators.Metric) -> str:
    return (
        f"step {done}: {metric.split} {metric.name} {metric.value:.4f} "
        f"(n={metric.count})"
    )


def _result(cfg, run: record.Run, trainee: Trainee, machine) -> dict[str, Any]:
    total = trainee.total_steps
    metrics = [
        {key: row[key] for key in ("split", "name", "value", "count")}
        for row in record.read_rows(run.workdir)
        if row["step"] == total and "split" in row
    ]
    return {
        **record.describe(
            cfg,
            device=machine.device,
            dataset=trainee.dataset,
        ),
        "class_names": trainee.source.class_names,
        "parameters": trainee.model.count_params(),
        "steps": total,
        "examples_seen": total * cfg.data.batch_size,
        "train_seconds": run.seconds(),
        "metrics": metrics,
    }
