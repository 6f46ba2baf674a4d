"""Batches for evaluation: every example of a split once, in file order.

What fills up the last batch is masked, so that a number is over all examples and
over no example twice, for any batch size and any number of replicas.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.data import (
    batches,
    data_source,
    images,
    record_files,
)

_PARALLEL = tf.data.AUTOTUNE  # how many images are decoded at once


def stream(
    source: data_source.Source,
    view: config.View,
    split: str,
    *,
    batch_size: int,
    keep: np.ndarray | None = None,
    num_hosts: int = 1,
    host_index: int = 0,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """Gives every example of a split once, in file order, in per-replica batches.

    Rows go to hosts and replicas as in `pipeline.train_stream`.

    Args:
        source: an opened data set.
        view: size and crop.
        split: a split expression.
        batch_size: global; padding with masked rows makes the last one full.
        keep: the rows to give, sorted; None: all.
        num_hosts: processes that call this, each for its own replicas.
        host_index: which of them this is.
        num_replicas: over all hosts; every host gives equally many elements.

    Returns:
        `batches.EvalBatch` after `batches.EvalBatch`, of b = batch_size /
        num_replicas rows.
    """
    b = batches.per_replica(batch_size, num_replicas, "evals.batch_size")
    num_examples = source.num_examples(split) if keep is None else len(keep)
    own = batch_size // num_hosts  # rows of each batch that are this host's
    whole, rest = divmod(num_examples, batch_size)
    ours = whole * own + min(max(rest - host_index * own, 0), own)
    num_padding = math.ceil(num_examples / batch_size) * own - ours
    rows = record_files.in_order(source, split, keep)
    if num_hosts > 1:
        rows = rows.enumerate().filter(_of_host(host_index, own, batch_size))
        rows = rows.map(lambda _, row: row)
    shown = examples(source, view, rows)
    padding = {
        "image": tf.zeros((view.image_size, view.image_size, 3)),
        "label": tf.zeros(source.label_spec.shape, source.label_spec.dtype),
        "mask": tf.constant(False),
        "index": tf.constant(-1, tf.int64),
    }
    padding = tf.data.Dataset.from_tensors(padding).repeat(num_padding)
    return batches.finished(shown.concatenate(padding).batch(b, drop_remainder=True))


def examples(
    source: data_source.Source, view: config.View, rows: tf.data.Dataset
) -> tf.data.Dataset:
    """Maps rows of `record_files.in_order` to evaluation examples, one by one."""

    @tf.autograph.experimental.do_not_convert
    def show(row: dict[str, tf.Tensor]) -> dict[str, Any]:
        example = source.parse(row["record"])
        image = images.evaluation_view(example["image"], view)
        label, index = example["label"], row["index"]
        return {"image": image, "label": label, "mask": True, "index": index}

    return rows.map(show, num_parallel_calls=_PARALLEL, deterministic=True)


def _of_host(host_index: int, own: int, batch_size: int) -> Callable[..., tf.Tensor]:
    """Returns a filter of numbered rows: those of a host that has `own` per batch."""
    return lambda number, _: number % batch_size // own == host_index
