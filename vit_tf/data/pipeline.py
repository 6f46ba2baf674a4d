"""Batches for training: an endless stream that is a pure function of (seed, step).

Nothing about it is saved, and a run continues at step k by asking for the stream
from k on.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.data import (
    batches,
    data_source,
    images,
    mixture,
    mixup_cutmix,
    random_keys,
    record_store,
    subsets,
)

PARALLEL = tf.data.AUTOTUNE  # how many images are decoded at once


def train_stream(
    source: data_source.Source | mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    start_step: int = 0,
    num_hosts: int = 1,
    host_index: int = 0,
    num_replicas: int = 1,
) -> tf.data.Dataset:
    """Makes the endless stream of per-replica training batches from a step on.

    A step takes `num_replicas / num_hosts` elements of each host: replica r, which
    lives on host r * num_hosts // num_replicas, gets rows r * b to (r + 1) * b of
    the global batch. The batch itself does not depend on hosts and replicas.
    Every epoch is a fresh order of all examples, or of those that `data.subset`
    chooses; a batch may span two epochs.

    Args:
        source: an opened data set, or several.
        data: split, subset, batch size, and augmentation.
        seed: chooses order, crops and flips.
        start_step: number of the first step.
        num_hosts: processes that call this, each for its own replicas.
        host_index: which of them this is.
        num_replicas: over all hosts.

    Returns:
        `batches.TrainBatch` after `batches.TrainBatch`, of b = batch_size /
        num_replicas rows; with mixup or CutMix also what `mixup_cutmix.drawer`
        draws, repeated for every row.

    Raises:
        errors.UserError: the batch does not divide, the split does not exist, the
            subset is too large, or a file is damaged.
    """
    if not 0 <= host_index < num_hosts or num_replicas % num_hosts:
        raise ValueError(
            f"host {host_index} of {num_hosts} with {num_replicas} replicas: need "
            "0 <= host_index < num_hosts and as many replicas on every host"
        )
    b = batches.per_replica(data.batch_size, num_replicas, "data.batch_size")
    mix = mixture.of(source)
    count = data.batch_size // num_hosts
    if num_hosts > 1:
        mix.check(count, f"data.batch_size / {num_hosts} hosts")
    share = record_store.Share(
        batch_size=data.batch_size, first=host_index * count, count=count
    )
    parts = rows_by_set(mix, data, seed=seed, step=start_step, share=share)
    views = [augmented(p.source, data, p.rows, seed=p.seed) for p in parts]
    stream = _mixed(mix, views).batch(b, drop_remainder=True)
    if mixup_cutmix.is_on(data):
        local = num_replicas // num_hosts
        stream = _with_draws(
            stream, data, seed=seed, start_step=start_step, local=local
        )
    return batches.finished(stream)


@dataclasses.dataclass(frozen=True)
class SetRows:
    """One set's rows of a stream: `count` of each of this host's batches."""

    source: data_source.Source
    rows: tf.data.Dataset
    seed: int
    count: int


def rows_by_set(
    mix: mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    step: int,
    share: record_store.Share,
) -> list[SetRows]:
    """Returns the shuffled rows of one host from a step on, set by set."""
    mix.check(share.batch_size, "data.batch_size")
    parts = []
    for number, source in enumerate(mix.sources):
        batch_size, first, count = (
            mix.rows_of(number, rows)
            for rows in (share.batch_size, share.first, share.count)
        )
        own_seed = mixture.seed_of(seed, number)
        rows = record_store.shuffled(
            source,
            data.split,
            seed=own_seed,
            start=step * batch_size,
            share=record_store.Share(batch_size=batch_size, first=first, count=count),
            keep=subsets.choose(source, data),
        )
        parts.append(SetRows(source, rows, own_seed, count))
    return parts


def _mixed(mix: mixture.Mixture, examples: list[tf.data.Dataset]) -> tf.data.Dataset:
    """Interleaves the examples of all sets in the order of the mixture's pattern."""
    if len(examples) == 1:
        return examples[0]
    choice = tf.data.Dataset.from_tensor_slices(np.array(mix.pattern, np.int64))
    return tf.data.Dataset.choose_from_datasets(examples, choice.repeat())


def augmented(
    source: data_source.Source, data: config.Data, rows: tf.data.Dataset, *, seed: int
) -> tf.data.Dataset:
    """Maps rows of `record_store.shuffled` to augmented examples, one by one."""

    @tf.autograph.experimental.do_not_convert
    def view(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        example = source.parse(row["record"])
        # Orders are drawn from [seed, 0]; views have a key of their own.
        key = tf.constant([seed, 1], tf.int64)
        key = random_keys.fold_in(key, row["epoch"], row["index"])
        image = images.training_view(example["image"], data, key)
        return {"image": image, "label": example["label"], "index": row["index"]}

    return rows.map(view, num_parallel_calls=PARALLEL, deterministic=True)


def _with_draws(
    batches: tf.data.Dataset,
    data: config.Data,
    *,
    seed: int,
    start_step: int,
    local: int,
) -> tf.data.Dataset:
    """Adds what mixup and CutMix draw for a step to batches of which
    `local` make up a step.

    Repeated for every row, so that a batch can be cut into micro-batches.
    """
    draw = mixup_cutmix.drawer(data)

    @tf.autograph.experimental.do_not_convert
    def add(number: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Next to the keys of orders, [seed, 0], and of views, [seed, 1].
        key = tf.constant([seed, 2], tf.int64)
        step = start_step + number // local
        drawn = draw(random_keys.fold_in(key, step))
        b = batch["label"].shape[0]
        rows = {k: tf.repeat(v[None], b, axis=0) for k, v in drawn.items()}
        return batch | rows

    return batches.enumerate().map(add, num_parallel_calls=1, deterministic=True)
