"""Class names: one spelling of each, and sets matched to a model's classes by name."""

import dataclasses
import unicodedata
from collections.abc import Sequence

import tensorflow as tf

from vit_tf import errors
from vit_tf.data import data_source, labels

# Unicode's categories of control characters, separators of lines, and halves of pairs.
_BREAKING = ("Cc", "Cs", "Zl", "Zp")


def normalise(name: str) -> str:
    """Returns the one spelling of a name: Unicode's NFC, without blanks around it.

    A Mac writes 'café' in five letters (NFD), others in four; a person sees one word.
    """
    return unicodedata.normalize("NFC", name).strip()


def check(name: str) -> str:
    """Returns a class's name as it is stored: normalised, and one that a file can keep.

    Raises:
        errors.UserError: nothing but blanks, or characters that no line of text has.
    """
    kept = normalise(name)
    if not kept or any(unicodedata.category(letter) in _BREAKING for letter in kept):
        shown = ascii(name)
        raise errors.UserError(
            f"class name {shown}: is empty, or has characters that cannot be stored in "
            "a line of text; rename its folder"
        )
    return kept


def are_names(names: Sequence[str]) -> bool:
    """Returns whether classes have names; a data set without any has numbers."""
    return list(names) != [str(number) for number in range(len(names))]


@dataclasses.dataclass(frozen=True)
class Match:
    """A data set whose labels are those of a model.

    Attributes:
        source: the set; its labels are places in the model's classes.
        line: what a person has to know of it; empty: nothing.
    """

    source: data_source.Source
    line: str = ""


def match(
    source: data_source.Source, names: Sequence[str] | None, num_classes: int
) -> Match:
    """Gives a set the labels of a model, by the names of its classes.

    Args:
        source: the set.
        names: the model's, in label order; None: it has none.
        num_classes: of the model.

    Raises:
        errors.UserError: the set has a class that the model does not have, or there are
            no names to go by and other numbers of classes.
    """
    theirs = [normalise(name) for name in source.class_names]
    ours = None if names is None else [normalise(name) for name in names]
    if ours is None or not are_names(ours) or not are_names(theirs):
        return Match(source, _by_number(source, num_classes, ours, theirs))
    if ours == theirs:
        return Match(source)
    if extra := [name for name in theirs if name not in ours]:
        raise errors.UserError(
            f"{source.name}: {_some(extra)} of its {len(theirs)} classes are none of the "
            f"model's {len(ours)}{errors.nearest(extra[0], ours)}; name a set with "
            "classes of the model"
        )
    missing = [name for name in ours if name not in theirs]
    line = f"{source.name}: classes matched by their names"
    if missing:
        line += (
            f"; it has no image of {_some(missing)}, which the model may still answer"
        )
    return Match(_relabelled(source, [ours.index(n) for n in theirs], ours), line)


def _by_number(
    source: data_source.Source,
    num_classes: int,
    ours: Sequence[str] | None,
    theirs: Sequence[str],
) -> str:
    if source.num_classes != num_classes:
        raise errors.UserError(
            f"the model has {num_classes} classes, {source.name} has "
            f"{source.num_classes}, and there are no names to match them by; name a set "
            "with its classes"
        )
    if ours is None and are_names(theirs):
        pairs = ", ".join(f"{i} for {n!r}" for i, n in enumerate(theirs[:3]))
        more = ", ..." if len(theirs) > 3 else ""
        return f"{source.name}: the model names no classes; its label is taken {pairs}{more}"
    return ""


def _relabelled(
    source: data_source.Source, places: Sequence[int], names: Sequence[str]
) -> data_source.Source:
    """Returns the set with each label i replaced by places[i], under other names."""
    old = source.spec.label
    table, count = tf.constant(list(places), tf.int32), len(names)

    def derive(features: labels.Features) -> tf.Tensor:
        label = old.derive(features)
        if old.multi:
            return tf.scatter_nd(table[:, None], label, [count])
        return tf.gather(table, labels.check_range(label, len(places)))

    label = dataclasses.replace(old, derive=derive, names=tuple(names))
    spec = dataclasses.replace(source.spec, num_classes=count, label=label)
    return dataclasses.replace(source, spec=spec)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
