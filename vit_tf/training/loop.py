"""The only loop: train(config, workdir) leaves a finished run, or one to resume.

Order that must not change: the row of a step, then its checkpoint, then its
evaluation. So no checkpoint lies ahead of its rows, a failing evaluation loses no
training, and resuming writes again, equal to the digit, what came after the
checkpoint.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from vit_tf import config
from vit_tf.data import data_source, mixture, pipeline, subsets
from vit_tf.evaluation import evaluators, fewshot
from vit_tf.inspection import masked_patch_figures, training_hooks
from vit_tf.models import build
from vit_tf.objectives import classification, masked_patches
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import devices, multihost, timing
from vit_tf.training import failures, optimizers, step


def train(
    cfg: config.Config,
    workdir: str,
    *,
    machine: devices.Runtime,
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
    among = machine.among
    with (
        among.losing_one(),
        _opened(cfg, workdir, among) as run,
        devices.stop_requests() as stop,
    ):
        if (result := run.result()) is not None:
            return result
        trainee = prepare(cfg, machine, data_dir=data_dir)
        take_steps = trainee.steps(cfg, machine)
        keeper = trainee.keeper(cfg, run)
        watch = trainee.watch(cfg, keeper, among)

        done, loaded = _resume_or_start(cfg, trainee, keeper)
        among.agree("the step to go on from", done)
        run.begin(done, data=trainee.data_facts(cfg))

        batches = stream(cfg, trainee.sources, machine, start_step=done)
        clock = timing.Pace(cfg.data.batch_size, seconds=run.seconds())
        total = trainee.total_steps
        with (
            keeper.finishing(),
            trainee.progress(done, silent=not among.chief) as progress,
        ):
            for line in loaded:
                progress.say(line)
            while True:
                for metric in _look(cfg, trainee, run, clock, done):
                    run.write({"step": done, **dataclasses.asdict(metric)})
                    progress.say(f"step {done}: {metric}")
                if done == total:
                    break

                count = _until_next_stop(cfg, done=done, total=total)
                with watch.naming_failures():
                    values = take_steps(batches, tf.constant(count))
                done += count
                values = {name: v.numpy().tolist() for name, v in values.items()}
                for line in watch.check_steps(values, done=done):
                    progress.say(line)
                clock.tick(count)
                progress.update(done, loss=values["loss"][-1], rate=clock.rate)

                if done == total or done % cfg.train.log_every_steps == 0:
                    run.write({"step": done, **_last(values), **clock.row()})
                stopping = among.any(bool(stop))  # once: it may change at any time
                due = done == total or done % cfg.train.checkpoint_every_steps == 0
                if due or stopping:
                    with clock.paused():
                        watch.check_weights(done=done)
                        keeper.save(done)
                if stopping:
                    keeper.wait()
                    among.wait()
                    progress.say(stop.sentence(done))
                    return None

        if among.chief:
            with averaged(trainee):
                checkpoint.save_weights(trainee.model, run.path("weights.npz"))
                checkpoint.save_objective(trainee.objective, run.workdir)
            run.finish(_result(cfg, run, trainee, machine))
        among.wait()
        return run.result()


@contextlib.contextmanager
def _opened(cfg: config.Config, workdir: str, among: multihost.Hosts):
    """The run's folder, which the first process writes and all have to see."""
    among.check_same(cfg, workdir)
    with run_directory.Run(workdir, cfg, writes=among.chief) as run:
        yield run


def _resume_or_start(
    cfg: config.Config, trainee: "Trainee", keeper: checkpoint.Keeper
) -> tuple[int, list[str]]:
    """Loads what there is: the step to go on from, and lines that say what it was."""
    if done := keeper.restore():
        return done, [f"resumed at step {done}"]
    lines = []
    if cfg.start_from is not None:
        lines = trainee.start_from(cfg.start_from)
    trainee.optimizer.start_average()
    return 0, lines


def _look(
    cfg: config.Config, trainee: "Trainee", run: run_directory.Run, clock, done: int
) -> list[evaluators.Metric]:
    """Evaluates and draws where it is time to, with the averaged weights."""
    total = trainee.total_steps
    evaluates = done == total or _divides(cfg.evals.every_steps, done)
    draws = (
        [masked_patch_figures.draw]
        if masked_patch_figures.due(cfg, done, total=total)
        else []
    )
    if training_hooks.due(cfg, done):
        draws.append(training_hooks.draw)
    if not (evaluates or draws):
        return []
    with clock.paused(), averaged(trainee):
        metrics = trainee.evaluate(cfg) if evaluates else []
        for draw in draws:
            draw(cfg, run, trainee, step=done)
    return metrics


def _last(values: dict[str, list[float]]) -> dict[str, float]:
    """The last step's numbers for a row, without those of a skipped step."""
    last = {name: v[-1] for name, v in values.items() if math.isfinite(v[-1])}
    return {n: int(v) if n in step.COUNTS else v for n, v in last.items()}


@dataclasses.dataclass
class Trainee:
    """What a run trains; its variables live in the strategy's scope."""

    sources: mixture.Mixture
    class_names: list[str]  # that the model tells
    model: Any
    objective: classification.Classification | masked_patches.MaskedPatches
    optimizer: optimizers.SummedGradients
    evaluator: evaluators.Classification | evaluators.MaskedPatches
    few_shot: fewshot.FewShot
    total_steps: int

    @property
    def name(self) -> str:
        return f"{self.model.name} on {self.sources}"

    @property
    def source(self) -> data_source.Source:
        """The set that is evaluated: the only one, or the first of a mixture."""
        return self.sources.sources[0]

    @property
    def dataset(self) -> str:
        """The sets with their versions."""
        return " + ".join(f"{s.name} {s.version}" for s in self.sources.sources)

    def steps(self, cfg: config.Config, machine: devices.Runtime):
        """The compiled step function of step.py."""
        return step.build(
            cfg,
            model=self.model,
            objective=self.objective,
            optimizer=self.optimizer,
            strategy=machine.strategy,
            jit_compile=machine.jit_compile,
        )

    def keeper(self, cfg: config.Config, run: run_directory.Run) -> checkpoint.Keeper:
        """Keeps the run's checkpoints by the rules of the config."""
        metric, best = cfg.train.keep_best, None
        if metric is not None:
            known = [f"{s}/{n}" for s in cfg.evals.splits for n in cfg.evals.measures]
            known += self.few_shot.names
            if metric not in known:
                raise config.Refused(
                    f"train.keep_best={metric}: not evaluated"
                    f"{config.nearest(metric, known)}"
                )
            best = functools.partial(run_directory.best_step, run.workdir, metric)
        return checkpoint.Keeper(
            run.path("checkpoints"),
            model=self.model,
            optimizer=self.optimizer,
            owned=self.objective.variables,
            keep=cfg.train.keep_checkpoints,
            every=cfg.train.keep_every_steps,
            best=best,
            writes=run.writes,
        )

    def watch(self, cfg, keeper: checkpoint.Keeper, among: multihost.Hosts):
        """Looks after the steps of the run."""
        return failures.Watch(
            cfg,
            self.sources,
            model=self.model,
            objective=self.objective,
            optimizer=self.optimizer,
            keeper=keeper,
            among=among,
        )

    def progress(self, done: int, *, silent: bool) -> run_directory.Progress:
        """The display of a run that begins at step `done`."""
        return run_directory.Progress(
            self.name, first=done, total=self.total_steps, silent=silent
        )

    def data_facts(self, cfg: config.Config) -> dict[str, Any]:
        """What fixes the stream of examples, and so must stay while resuming."""
        return {
            "dataset": self.dataset,
            "training_examples": _count(self.sources, cfg.data),
            "class_names": self.class_names,
        }

    def start_from(self, path: str) -> list[str]:
        """Loads other weights; the lines that say what was done."""
        names = self.class_names
        return checkpoint.start_from(self.model, path, class_names=names)

    def evaluate(self, cfg: config.Config) -> list[evaluators.Metric]:
        """Every metric of every split that the config names."""
        found = []
        for split in cfg.evals.splits:
            found += self.evaluator.evaluate(
                self.source,
                cfg.data,
                split,
                measures=cfg.evals.measures,
                batch_size=cfg.evals.batch_size,
            )
        return found + self.few_shot.metrics(batch_size=cfg.evals.batch_size)


def prepare(
    cfg: config.Config, machine: devices.Runtime, *, data_dir: str | None = None
) -> Trainee:
    """Opens the data and builds model, objective, optimizer and evaluators."""
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    source = sources.sources[0]
    training_hooks.check(cfg)
    classification.check_data(cfg, source)
    class_names = classification.class_names(cfg.objective, source)
    for split in cfg.evals.splits:
        source.num_examples(split)  # refuses an unknown split before training
    total = timing.num_steps(
        cfg.train,
        batch_size=cfg.data.batch_size,
        num_examples=_count(sources, cfg.data),
    )
    devices.seed(cfg.train.seed)  # the weights are a function of the config alone
    with machine.strategy.scope():
        model = build.build(
            cfg.model,
            num_classes=len(class_names),
            image_size=cfg.data.image_size,
            dtype=str(cfg.train.precision),
        )
        if not model.pools:
            raise config.Refused(
                f"model.pool={cfg.model.pool}: gives logits for every token, training "
                "needs one vector per image; use token, gap or map"
            )
        objective = classification.build(
            cfg, model=model, num_classes=source.num_classes
        )
        optimizer = optimizers.build(
            cfg.optim,
            total_steps=total,
            variables=step.trained(model, objective),
            skips=cfg.train.skip_bad_steps > 0,
            scales=cfg.train.precision == config.Precision.MIXED_FLOAT16,
        )
    evaluator = evaluators.KINDS[cfg.objective.task](
        model=model,
        objective=objective,
        strategy=machine.strategy,
        among=machine.among,
    )
    few_shot = fewshot.prepare(cfg, model, machine, data_dir=data_dir)
    return Trainee(
        sources, class_names, model, objective, optimizer, evaluator, few_shot, total
    )


def _count(sources: mixture.Mixture, data: config.Data) -> int:
    """Examples that an epoch counts: those of all sets, each once."""
    return sum(subsets.count(source, data) for source in sources.sources)


def stream(
    cfg: config.Config,
    sources: data_source.Source | mixture.Mixture,
    machine: devices.Runtime,
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
    trained = step.trained(trainee.model, trainee.objective)
    pairs = list(zip(trained, trainee.optimizer.averages))
    kept = [variable.numpy() for variable, _ in pairs]
    try:
        for variable, average in pairs:
            variable.assign(average.numpy())
        yield
    finally:
        for (variable, _), value in zip(pairs, kept):
            variable.assign(value)


def _until_next_stop(cfg: config.Config, *, done: int, total: int) -> int:
    """Steps to take in one call: up to steps_per_loop, never past a stop."""
    stops = [cfg.train.log_every_steps, cfg.train.checkpoint_every_steps]
    stops += filter(None, [cfg.evals.every_steps, cfg.evals.draw_every_steps])
    return min(cfg.train.steps_per_loop, total - done, *(s - done % s for s in stops))


def _divides(every: int | None, done: int) -> bool:
    return every is not None and done > 0 and done % every == 0


def _result(cfg, run: run_directory.Run, trainee: Trainee, machine) -> dict[str, Any]:
    total = trainee.total_steps
    metrics = [
        {key: row[key] for key in ("split", "name", "value", "count")}
        for row in run_directory.read_rows(run.workdir)
        if row["step"] == total and "split" in row
    ]
    return {
        **run_directory.describe(
            cfg,
            device=machine.device,
            dataset=trainee.dataset,
        ),
        "class_names": trainee.class_names,
        "parameters": trainee.model.count_params(),
        "steps": total,
        "examples_seen": total * cfg.data.batch_size,
        **trainee.optimizer.counts(),
        "train_seconds": run.seconds(),
        "metrics": metrics,
    }
