"""Subsets: which rows of a training split a run sees, chosen without copying.

A larger subset of the same seed holds every smaller one of the same unit: the first
shot of a class is among its first five, and 9M examples are among the 30M.
"""

import functools

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import (
    data_source,
    labels,
    mixture,
    record_files,
)


def choose(source: data_source.Source, data: config.Data) -> np.ndarray | None:
    """Chooses the rows that `data.subset` leaves of `data.split`.

    Args:
        source: the prepared data set.
        data: split and subset.

    Returns:
        Sorted int64 places in the split; None: all of them. For shots the labels of
        the whole split are read once in a process.

    Raises:
        errors.UserError: more than there is, less than one example, or shots where an
            image has several labels.
    """
    subset = data.subset
    if subset.amount is None:
        return None
    select = _shots if subset.unit is config.Keep.SHOTS else _first
    return np.sort(select(source, data.split, subset))


def count(source: data_source.Source, data: config.Data) -> int:
    """Counts the examples of an epoch."""
    chosen = choose(source, data)
    return source.num_examples(data.split) if chosen is None else len(chosen)


def count_all(sources: mixture.Mixture, data: config.Data) -> int:
    """Returns the examples that an epoch counts: those of all sets, each once."""
    return sum(count(source, data) for source in sources.sources)


def choose_shots(
    classes: np.ndarray, shots: int, *, num_classes: int, seed: int
) -> np.ndarray:
    """Chooses the first `shots` of every class in a random order (fewshot_lsr.py).

    Args:
        classes: int (examples,), the class of every example.
        shots: examples of each class.
        num_classes: how many classes there are.
        seed: of `numpy.random.default_rng`, as in the authors' code: one generator
            that permutes one class after the other.

    Returns:
        int64 (num_classes * shots,), class after class; fewer where a class has fewer.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(classes == c)) for c in range(num_classes)]
    return np.concatenate([order[:shots] for order in orders])


@functools.lru_cache(maxsize=8)
def read_labels(source: data_source.Source, split: str) -> np.ndarray:
    """Reads the labels of a split in file order; decodes no image.

    Returns:
        int32 (examples,), or float32 (examples, num_classes) if multi-hot.
    """

    @tf.autograph.experimental.do_not_convert
    def parse(row: dict[str, tf.Tensor]) -> tf.Tensor:
        return source.parse_label(row["record"])

    rows = record_files.in_order(source, split).map(
        parse,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    try:
        return np.concatenate(list(rows.batch(4096).as_numpy_iterator()))
    except tf.errors.OpError as error:
        broken = record_files.find_broken_file(source, split)
        if broken is None and labels.OUT_OF_RANGE in error.message:
            broken = f"a label is out of range 0 to {source.num_classes - 1}"
        if broken is None:
            raise
        raise errors.UserError(
            f"{source.name}: {broken}; `python -m tools.prepare_data --verify --all "
            f"--dataset={source.name}` lists what is wrong"
        ) from None


def size(
    subset: config.Subset, *, total: int, num_classes: int, split: str = "train"
) -> int:
    """Returns the number of examples of a subset of `total`.

    Raises:
        errors.UserError: more than there is, less than one, a part of one.
    """
    if subset.amount is None:
        return total
    if subset.unit is config.Keep.FRACTION:
        if subset.amount > 1:
            raise errors.UserError(
                f"data.subset.amount={subset.amount:g}: more than the whole; need a "
                "fraction up to 1, or data.subset.unit=examples or shots"
            )
        # The tiny term forgives fractions such as 0.29 of 100 that floats round down.
        wanted = int(total * subset.amount + 1e-6)
    else:
        each = num_classes if subset.unit is config.Keep.SHOTS else 1
        wanted = each * _whole(subset)
    if not 0 < wanted <= total:
        raise errors.UserError(
            f"data.subset.amount={subset.amount:g}: is {wanted:,} of the {total:,} "
            f"examples of {split!r}; need 1 to {total:,}"
        )
    return wanted


def _first(source: data_source.Source, split: str, subset: config.Subset) -> np.ndarray:
    """Chooses the first of all rows in a random order."""
    total = source.num_examples(split)
    wanted = size(subset, total=total, num_classes=source.num_classes, split=split)
    return np.random.default_rng(subset.seed).permutation(total)[:wanted]


def _shots(source: data_source.Source, split: str, subset: config.Subset) -> np.ndarray:
    if source.multi_label:
        raise errors.UserError(
            f"data.subset.unit=shots: an image of {source.name} has several labels; "
            "use examples or fraction"
        )
    shots, num_classes = _whole(subset), source.num_classes
    classes = read_labels(source, split)
    sizes = np.bincount(classes, minlength=num_classes)
    if sizes.min() < shots:
        poorest = int(sizes.argmin())
        raise errors.UserError(
            f"data.subset.amount={shots} shots: class "
            f"{source.class_names[poorest]!r} (label {poorest}) has only "
            f"{sizes[poorest]} examples in {split!r} of {source.name}"
        )
    return choose_shots(classes, shots, num_classes=num_classes, seed=subset.seed)


def _whole(subset: config.Subset) -> int:
    """Returns the amount, which is set here, as a whole number."""
    amount = subset.amount or 0.0
    if amount != int(amount):
        raise errors.UserError(
            f"data.subset.amount={amount:g}: need a whole number of {subset.unit}"
        )
    return int(amount)
