"""Batches for training and evaluation, from prepared data sets.

The training stream is a pure function of (seed, step): nothing about it is saved,
and a run continues at step k by asking for the stream from k on. Every example of
an evaluation split is given once; what fills up the last batch is masked.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import (
    data_source,
    images,
    labels,
    mixture,
    mixup_cutmix,
    random_keys,
    record_store,
    subsets,
)

_PARALLEL = tf.data.AUTOTUNE  # how many images are decoded at once


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
    b = _per_replica(data.batch_size, num_replicas, "data.batch_size")
    mix = mixture.of(source)
    count = data.batch_size // num_hosts
    if num_hosts > 1:
        mix.check(count, f"data.batch_size / {num_hosts} hosts")
    share = record_store.Share(
        batch_size=data.batch_size, first=host_index * count, count=count
    )
    parts = _parts(mix, data, seed=seed, step=start_step, share=share)
    examples = [_train_examples(p.source, data, p.rows, seed=p.seed) for p in parts]
    batches = _mixed(mix, examples).batch(b, drop_remainder=True)
    if mixup_cutmix.is_on(data):
        local = num_replicas // num_hosts
        batches = _with_draws(
            batches, data, seed=seed, start_step=start_step, local=local
        )
    return _finish(batches)


def eval_stream(
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

    Rows go to hosts and replicas as in `train_stream`.

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
    b = _per_replica(batch_size, num_replicas, "evals.batch_size")
    num_examples = source.num_examples(split) if keep is None else len(keep)
    own = batch_size // num_hosts  # rows of each batch that are this host's
    whole, rest = divmod(num_examples, batch_size)
    ours = whole * own + min(max(rest - host_index * own, 0), own)
    num_padding = math.ceil(num_examples / batch_size) * own - ours
    rows = record_store.in_order(source, split, keep)
    if num_hosts > 1:
        rows = rows.enumerate().filter(_of_host(host_index, own, batch_size))
        rows = rows.map(lambda _, row: row)
    examples = _eval_examples(source, view, rows)
    padding = {
        "image": tf.zeros((view.image_size, view.image_size, 3)),
        "label": tf.zeros(source.label_spec.shape, source.label_spec.dtype),
        "mask": tf.constant(False),
        "index": tf.constant(-1, tf.int64),
    }
    padding = tf.data.Dataset.from_tensors(padding).repeat(num_padding)
    return _finish(examples.concatenate(padding).batch(b, drop_remainder=True))


def find_corrupt(
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
    for part in _parts(mixture.of(source), data, seed=seed, step=step, share=share):
        rows = part.rows.take(part.count)
        examples = _train_examples(part.source, data, rows, seed=part.seed)
        culprit = _find_failure(part.source, data.split, rows, examples)
        if culprit is not None:
            return culprit
    return None


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
    parts = _parts(mixture.of(source), data, seed=seed, step=step, share=share)
    return {
        part.source.name: [int(r["index"]) for r in part.rows.take(part.count)]
        for part in parts
    }


def find_corrupt_eval(
    source: data_source.Source,
    view: config.View,
    split: str,
    keep: np.ndarray | None = None,
) -> str | None:
    """Names the first record of an evaluation split that cannot be decoded."""
    rows = record_store.in_order(source, split, keep)
    examples = _eval_examples(source, view, rows)
    return _find_failure(source, split, rows, examples)


@dataclasses.dataclass(frozen=True)
class _Part:
    """One set's rows of a stream: `count` of each of this host's batches."""

    source: data_source.Source
    rows: tf.data.Dataset
    seed: int
    count: int


def _parts(
    mix: mixture.Mixture,
    data: config.Data,
    *,
    seed: int,
    step: int,
    share: record_store.Share,
) -> list[_Part]:
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
        parts.append(_Part(source, rows, own_seed, count))
    return parts


def _mixed(mix: mixture.Mixture, examples: list[tf.data.Dataset]) -> tf.data.Dataset:
    """Interleaves the examples of all sets in the order of the mixture's pattern."""
    if len(examples) == 1:
        return examples[0]
    choice = tf.data.Dataset.from_tensor_slices(np.array(mix.pattern, np.int64))
    return tf.data.Dataset.choose_from_datasets(examples, choice.repeat())


def _train_examples(
    source: data_source.Source, data: config.Data, rows: tf.data.Dataset, *, seed: int
) -> tf.data.Dataset:
    """Maps rows of `record_store.shuffled` to augmented examples, one by one."""

    def view(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        example = source.parse(row["record"])
        # Orders are drawn from [seed, 0]; views have a key of their own.
        key = tf.constant([seed, 1], tf.int64)
        key = random_keys.fold_in(key, row["epoch"], row["index"])
        image = images.training_view(example["image"], data, key)
        return {"image": image, "label": example["label"], "index": row["index"]}

    return rows.map(view, num_parallel_calls=_PARALLEL, deterministic=True)


def _with_draws(
    batches: tf.data.Dataset,
    data: config.Data,
    *,
    seed: int,
    start_step: int,
    local: int,
) -> tf.data.Dataset:
    """Adds what mixup and CutMix draw for a step to batches of which `local` make up a step.

    Repeated for every row, so that a batch can be cut into micro-batches.
    """
    draw = mixup_cutmix.drawer(data)

    def add(number: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Next to the keys of orders, [seed, 0], and of views, [seed, 1].
        key = tf.constant([seed, 2], tf.int64)
        step = start_step + number // local
        drawn = draw(random_keys.fold_in(key, step))
        b = batch["label"].shape[0]
        rows = {k: tf.repeat(v[None], b, axis=0) for k, v in drawn.items()}
        return batch | rows

    return batches.enumerate().map(add, num_parallel_calls=1, deterministic=True)


def _eval_examples(
    source: data_source.Source, view: config.View, rows: tf.data.Dataset
) -> tf.data.Dataset:
    """Maps rows of `record_store.in_order` to evaluation examples, one by one."""

    def show(row: dict[str, tf.Tensor]) -> dict[str, Any]:
        example = source.parse(row["record"])
        image = images.evaluation_view(example["image"], view)
        label, index = example["label"], row["index"]
        return {"image": image, "label": label, "mask": True, "index": index}

    return rows.map(show, num_parallel_calls=_PARALLEL, deterministic=True)


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
        return record_store.find_broken_file(source, split)
    return None


def _of_host(host_index: int, own: int, batch_size: int) -> Callable[..., tf.Tensor]:
    """Returns a filter of numbered rows: those of a host that has `own` per batch."""
    return lambda number, _: number % batch_size // own == host_index


def _per_replica(batch_size: int, num_replicas: int, name: str) -> int:
    if batch_size % num_replicas:
        near = errors.near_multiples(batch_size, num_replicas)
        raise errors.UserError(
            f"{name}={batch_size}: does not divide over {num_replicas} replicas; "
            f"near sizes that do: {near}"
        )
    return batch_size // num_replicas


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The stream is cut to hosts and replicas already.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
