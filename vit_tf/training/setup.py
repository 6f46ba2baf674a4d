"""What a run needs before its first step: data, model, objective, optimizer, measures."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from vit_tf import config, errors
from vit_tf.costs import memory
from vit_tf.data import data_source, mixture, pipeline, subsets
from vit_tf.evaluation import evaluators, fewshot
from vit_tf.objectives import objective
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import devices, progress, timing
from vit_tf.training import train_state


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """A run, ready for its first step.

    Attributes:
        cfg: the run.
        sources: the data sets that it trains on, mixed.
        class_names: of the model's last layer, in label order.
        state: what its steps change.
        evaluator: gives the measures of a split.
        few_shot: the few-shot evaluation, which may be of no set at all.
        total_steps: steps of the whole run.
    """

    cfg: config.Config
    sources: mixture.Mixture
    class_names: list[str]
    state: train_state.TrainState
    evaluator: evaluators.Classification | evaluators.MaskedPatches
    few_shot: fewshot.FewShot
    total_steps: int

    @property
    def name(self) -> str:
        """The run in a few words: 'ViT-B/16 on cifar10'."""
        return f"{self.state.model.name} on {self.sources}"

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
            "content": [source.content_digest for source in self.sources.sources],
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
            model=self.state.model,
            optimizer=self.state.optimizer,
            owned=self.state.objective.variables,
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
        errors.UserError: data that are not there or do not fit; see `train_state.build`.
    """
    sources = mixture.open_all(cfg.data.name, data_dir=data_dir)
    source = sources.sources[0]
    objective.check_data(cfg.objective, cfg.data, source)
    _check_splits(cfg, source)
    examples = subsets.count_all(sources, cfg.data)
    total_steps = timing.num_steps(
        cfg.train, batch_size=cfg.data.batch_size, num_examples=examples
    )
    memory.check_training(
        cfg,
        num_classes=source.num_classes,
        memory=machine.memory,
        replicas=machine.local_replicas,
    )
    state = train_state.build(
        cfg,
        num_classes=source.num_classes,
        total_steps=total_steps,
        strategy=machine.strategy,
    )
    task = cfg.objective.task
    evaluator = evaluators.KINDS[task](
        model=state.model,
        objective=state.objective,
        strategy=machine.strategy,
        processes=machine.processes,
    )
    return TrainingSetup(
        cfg=cfg,
        sources=sources,
        class_names=objective.class_names(task, source),
        state=state,
        evaluator=evaluator,
        few_shot=fewshot.prepare(cfg, state.model, machine, data_dir=data_dir),
        total_steps=total_steps,
    )


def _check_splits(cfg: config.Config, source: data_source.Source) -> None:
    """Refuses a split that is not there before training, with the field to set."""
    named = [("evals.splits", split) for split in cfg.evals.splits]
    for field, split in [("data.split", cfg.data.split), *named]:
        try:
            source.num_examples(split)
        except errors.UserError as refusal:
            there = [name for name in source.builder.info.splits if name != "train"]
            such = f", such as {field}={there[0]}" if there else ""
            line = f"{refusal}; set {field} to one of them or a part{such}"
            raise errors.UserError(line, field=field) from None


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
