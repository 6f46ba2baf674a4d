"""What a run needs before its first step: data, model, objective, optimizer, measures."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source, mixture, pipeline, subsets
from vit_tf.evaluation import evaluators, fewshot
from vit_tf.models import build, network
from vit_tf.objectives import objective
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import devices, progress, timing
from vit_tf.training import optimizers


@dataclasses.dataclass(frozen=True)
class Trainable:
    """What a training step changes; its variables live in the strategy's scope."""

    model: network.Network
    objective: objective.Objective
    optimizer: optimizers.SummedGradients

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables with gradients: the model's, then the objective's own."""
        return [*self.model.trainable_variables, *self.objective.variables]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the Polyak average, if there is one, in the place of the weights."""
        pairs = list(zip(self.variables, self.optimizer.averages))
        kept = [variable.numpy() for variable, _ in pairs]
        try:
            for variable, average in pairs:
                variable.assign(average.numpy())
            yield
        finally:
            for (variable, _), value in zip(pairs, kept):
                variable.assign(value)


def build_trainable(
    cfg: config.Config,
    *,
    num_classes: int,
    total_steps: int,
    strategy: tf.distribute.Strategy,
) -> Trainable:
    """Builds model, objective and optimizer as the loop trains them.

    The initial weights are a function of the config alone, whatever the strategy.

    Args:
        cfg: the run.
        num_classes: of the data; a model whose objective reads no label has no head.
        total_steps: where the learning rate's schedule ends.
        strategy: in whose scope the variables are made.

    Raises:
        errors.UserError: a model that gives no single vector for an image, or what
            the objective or the optimizer refuse.
    """
    labelled = cfg.objective.task is config.Task.CLASSIFICATION
    devices.seed(cfg.train.seed)
    with strategy.scope():
        model = build.build(
            cfg.model,
            num_classes=num_classes if labelled else 0,
            image_size=cfg.data.image_size,
            dtype=str(cfg.train.precision),
        )
        if not model.pools:
            raise errors.UserError(
                f"model.pool={cfg.model.pool}: gives logits for every token, training "
                "needs one vector per image; use token, gap or map"
            )
        made = objective.build(
            cfg.objective,
            model=model,
            num_classes=num_classes,
            measures=cfg.evals.measures,
        )
        optimizer = optimizers.build(
            cfg.optim,
            total_steps=total_steps,
            variables=[*model.trainable_variables, *made.variables],
            skips=cfg.train.skip_bad_steps > 0,
            scales=cfg.train.precision == config.Precision.MIXED_FLOAT16,
        )
    return Trainable(model, made, optimizer)


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """A run, ready for its first step.

    Attributes:
        cfg: the run.
        sources: the data sets that it trains on, mixed.
        class_names: of the model's last layer, in label order.
        trainable: what its steps change.
        evaluator: gives the measures of a split.
        few_shot: the few-shot evaluation, which may be of no set at all.
        total_steps: steps of the whole run.
    """

    cfg: config.Config
    sources: mixture.Mixture
    class_names: list[str]
    trainable: Trainable
    evaluator: evaluators.Classification | evaluators.MaskedPatches
    few_shot: fewshot.FewShot
    total_steps: int

    @property
    def name(self) -> str:
        """The run in a few words: 'ViT-B/16 on cifar10'."""
        return f"{self.trainable.model.name} on {self.sources}"

    @property
    def source(self) -> data_source.Source:
        """The set that is evaluated: the only one, or the first of a mixture."""
        return self.sources.sources[0]

    @property
    def dataset(self) -> str:
        """The sets with their versions."""
        return " + ".join(f"{s.name} {s.version}" for s in self.sources.sources)

    def data_facts(self) -> dict[str, Any]:
        """Returns what fixes the stream of examples, and so must stay on resuming."""
        return {
            "dataset": self.dataset,
            "training_examples": subsets.count_all(self.sources, self.cfg.data),
            "class_names": self.class_names,
        }

    def checkpoints(
        self, run: run_directory.RunDirectory
    ) -> checkpoint.CheckpointManager:
        """Returns the manager of the run's checkpoints, by the rules of its config.

        Raises:
            errors.UserError: train.keep_best names a number that is not evaluated.
        """
        train, evals, best = self.cfg.train, self.cfg.evals, None
        if (metric := train.keep_best) is not None:
            known = [f"{s}/{n}" for s in evals.splits for n in evals.measures]
            known += self.few_shot.names
            if metric not in known:
                raise errors.UserError(
                    f"train.keep_best={metric}: not evaluated"
                    f"{errors.nearest(metric, known)}"
                )
            best = functools.partial(run_directory.best_step, run.workdir, metric)
        return checkpoint.CheckpointManager(
            run.path("checkpoints"),
            model=self.trainable.model,
            optimizer=self.trainable.optimizer,
            owned=self.trainable.objective.variables,
            keep=train.keep_checkpoints,
            every=train.keep_every_steps,
            best=best,
            writes=run.writes,
        )

    def display(self, done: int, *, silent: bool) -> progress.Progress:
        """Returns the progress display of a run that goes on at step `done`."""
        return progress.Progress(
            self.name, done=done, total=self.total_steps, unit="step", silent=silent
        )

    def batches(self, strategy: tf.distribute.Strategy, *, start_step: int) -> Iterator:
        """Returns training batches from `start_step` on, spread over the replicas."""
        return train_batches(
            self.sources,
            self.cfg.data,
            seed=self.cfg.train.seed,
            start_step=start_step,
            strategy=strategy,
        )

    def evaluate(self) -> list[evaluators.Metric]:
        """Returns every metric of every split that the config names."""
        metrics = []
        for split in self.cfg.evals.splits:
            metrics += self.evaluator.evaluate(
                self.source,
                self.cfg.data.view,
                split,
                measures=self.cfg.evals.measures,
                batch_size=self.cfg.evals.batch_size,
            )
        return metrics + self.few_shot.metrics(batch_size=self.cfg.evals.batch_size)


def prepare(
    cfg: config.Config, machine: devices.Runtime, *, data_dir: str | None = None
) -> TrainingSetup:
    """Opens the data and builds what is trained and what measures it.

    Raises:
        errors.UserError: data that are not there or do not fit; see `build_trainable`.
    """
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    source = sources.sources[0]
    objective.check_data(cfg.objective, cfg.data, source)
    for split in cfg.evals.splits:
        source.num_examples(split)  # refuses an unknown split before training
    examples = subsets.count_all(sources, cfg.data)
    total_steps = timing.num_steps(
        cfg.train, batch_size=cfg.data.batch_size, num_examples=examples
    )
    trainable = build_trainable(
        cfg,
        num_classes=source.num_classes,
        total_steps=total_steps,
        strategy=machine.strategy,
    )
    task = cfg.objective.task
    evaluator = evaluators.KINDS[task](
        model=trainable.model,
        objective=trainable.objective,
        strategy=machine.strategy,
        processes=machine.processes,
    )
    return TrainingSetup(
        cfg=cfg,
        sources=sources,
        class_names=objective.class_names(task, source),
        trainable=trainable,
        evaluator=evaluator,
        few_shot=fewshot.prepare(cfg, trainable.model, machine, data_dir=data_dir),
        total_steps=total_steps,
    )


def train_batches(
    sources: data_source.Source | mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    start_step: int,
    strategy: tf.distribute.Strategy,
) -> Iterator:
    """Returns training batches from `start_step` on, spread over the replicas.

    The batch of a step is a function of (seed, step): nothing about the iterator
    is ever saved.
    """
    dataset = strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_stream(
            sources,
            data,
            seed=seed,
            start_step=start_step,
            num_hosts=context.num_input_pipelines,
            host_index=context.input_pipeline_id,
            num_replicas=context.num_replicas_in_sync,
        )
    )
    return iter(dataset)
