"""What training minimises: the role that every objective plays, and choosing one."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.models import network
from vit_tf.objectives import classification, masked_patches


class Objective(Protocol):
    """Computes the loss of every example of a batch.

    Attributes:
        variables: what it learns besides the model. They are trained, averaged and
            saved with the model's, and stay behind when the model goes on elsewhere.
        measures: the numbers of `config.Measure` that its evaluation can give.
    """

    variables: Sequence[keras.Variable]
    measures: Sequence[config.Measure]

    def draw(
        self,
        batch: dict[str, tf.Tensor],
        seed: tf.Tensor,
        *,
        first: tf.Tensor,
        total: int,
    ) -> dict[str, tf.Tensor]:
        """Adds what is drawn anew for every example of a training step.

        A draw depends on the step and on the example's place in the global batch,
        so neither replicas nor micro-batches change it.

        Args:
            batch: one replica's share of a step.
            seed: int32 (2,), of the step, the same on every replica.
            first: int32 (), place of the share's first example in the global batch.
            total: examples of the global batch.
        """
        ...

    def __call__(
        self,
        model: network.Network,
        batch: dict[str, tf.Tensor],
        seed: tf.Tensor | None = None,
        *,
        training: bool = True,
    ) -> tuple[tf.Tensor, Any]:
        """Returns float32 (batch,) losses, and what they were computed from."""
        ...


def build(
    objective: config.Objective,
    *,
    model: network.Network,
    num_classes: int,
    measures: Iterable[config.Measure] = (),
) -> Objective:
    """Builds the objective of a run, inside the strategy's scope, after the model.

    Args:
        objective: which one, and its settings.
        model: whose outputs it takes.
        num_classes: of the data; an objective without labels does not read it.
        measures: the numbers that its evaluation has to give.

    Raises:
        errors.UserError: a measure that it cannot give; see also
            `masked_patches.MaskedPatches`.
    """
    made = {
        config.Task.CLASSIFICATION: lambda: classification.Classification(
            objective, num_classes=num_classes
        ),
        config.Task.MASKED_PATCH: lambda: masked_patches.MaskedPatches(
            objective, model=model
        ),
    }[objective.task]()
    for name in measures:
        if name not in made.measures:
            raise errors.UserError(
                f"evals.measures={name}: not of objective.task={objective.task} with "
                f"this target; there are: {', '.join(made.measures)}"
            )
    return made


def class_names(task: config.Task, source: data_source.Source) -> list[str]:
    """Returns the classes of the model's last layer; none where no label is read."""
    return list(source.class_names) if task is config.Task.CLASSIFICATION else []


def check_data(
    objective: config.Objective, data: config.Data, source: data_source.Source
) -> None:
    """Refuses data that the objective cannot take.

    Raises:
        errors.UserError: several labels for a softmax; a flip that changes labels;
            mixed labels where none is read.
    """
    if objective.task is config.Task.MASKED_PATCH:
        masked_patches.check_data(data)
        return
    if source.multi_label and objective.loss == config.Loss.SOFTMAX:
        raise errors.UserError(
            f"data.name={data.name}: has several labels for an image, softmax "
            "takes one; use objective.loss=sigmoid"
        )
    protocol = source.spec.protocol
    if protocol is not None and data.flip and not protocol.flip:
        raise errors.UserError(
            f"data.flip=True: mirroring changes the labels of {source.name}; use "
            "data.flip=false, or experiments/vtab.py"
        )
