"""What a training step changes: model, objective and optimizer, built together."""

import contextlib
import dataclasses
from collections.abc import Iterator

import keras
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.models import build as models
from vit_tf.models import network
from vit_tf.objectives import objective
from vit_tf.runtime import devices
from vit_tf.training import optimizers


@dataclasses.dataclass(frozen=True)
class TrainState:
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


def build(
    cfg: config.Config,
    *,
    num_classes: int,
    total_steps: int,
    strategy: tf.distribute.Strategy,
) -> TrainState:
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
        model = models.build(
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
    return TrainState(model, made, optimizer)
