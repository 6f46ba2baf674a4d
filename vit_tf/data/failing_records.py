"""Names the record at fault, for the line that a run or an evaluation ends with."""

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.data import (
    data_source,
    evaluation_stream,
    labels,
    mixture,
    pipeline,
    record_files,
    record_store,
)


def find_in_batch(
    source: data_source.Source | mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    step: int,
) -> str | None:
    """Names the first record that cannot be decoded in the batch of a step.

    For the line that a run ends with when reading fails; None if all is well.
    """
    share = record_store.Share(
        batch_size=data.batch_size, first=0, count=data.batch_size
    )
    for part in pipeline.rows_by_set(
        mixture.of(source), data, seed=seed, step=step, share=share
    ):
        rows = part.rows.take(part.count)
        examples = pipeline.augmented(part.source, data, rows, seed=part.seed)
        culprit = _find_failure(part.source, data.split, rows, examples)
        if culprit is not None:
            return culprit
    return None


def find_in_split(
    source: data_source.Source,
    view: config.View,
    split: str,
    keep: np.ndarray | None = None,
) -> str | None:
    """Names the first record of an evaluation split that cannot be decoded."""
    rows = record_files.in_order(source, split, keep)
    examples = evaluation_stream.examples(source, view, rows)
    return _find_failure(source, split, rows, examples)


def batch_indices(
    source: data_source.Source | mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    step: int,
) -> dict[str, list[int]]:
    """Rows of each set's split that are in the global batch of a step.

    For the line that a run ends with when that step goes wrong.
    """
    share = record_store.Share(
        batch_size=data.batch_size, first=0, count=data.batch_size
    )
    parts = pipeline.rows_by_set(
        mixture.of(source), data, seed=seed, step=step, share=share
    )
    return {
        part.source.name: [int(r["index"]) for r in part.rows.take(part.count)]
        for part in parts
    }


def _find_failure(
    source: data_source.Source,
    split: str,
    rows: tf.data.Dataset,
    examples: tf.data.Dataset,
) -> str | None:
    """Names the row at which `examples`, made from `rows` one by one, fails."""
    count = 0
    try:
        for _ in examples:
            count += 1
    except tf.errors.InvalidArgumentError as error:
        (row,) = rows.skip(count).take(1)
        name = source.describe(row["record"], split, int(row["index"]))
        if labels.OUT_OF_RANGE in error.message:
            return f"{name} has a label out of range 0 to {source.num_classes - 1}"
        return f"{name} cannot be decoded"
    except tf.errors.OpError:
        return record_files.find_broken_file(source, split)
    return None
