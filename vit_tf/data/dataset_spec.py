"""DatasetSpec: what is known of a data set before it is prepared."""

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

from vit_tf.data import labels, vtab_splits

# (train, evaluation), as TFDS split expressions; no training split: None.
Splits = tuple[str | None, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set of TFDS, or of a builder of ours.

    Attributes:
        tfds_name: TFDS name, with its config if it has any.
        version: the only version that is read; other versions differ in content.
        num_classes: size of the label set; 0 where whoever prepares it decides.
        counts: examples of each stored split, as TFDS' catalogue gives them. A split
            that is not named here may exist besides. Empty: not known.
        development: splits to choose hyper-parameters on; None: the paper has none.
        final: splits to report.
        few_shot: splits of the few-shot evaluation (section 4.1), if it uses the set.
        image_key: name of the image in the features.
        label: how the label follows from the features.
        redraw: encoded image to encoded image, where the stored one is not fit to be
            shown.
        manual_files: what the user must put into the manual folder before preparing.
        manual_page: where to get them.
        protocol: what VTAB does with it, and which augmentation it forbids; None: no
            task of VTAB.
    """

    tfds_name: str
    version: str
    num_classes: int
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    development: Splits | None = None
    final: Splits | None = None
    few_shot: Splits | None = None
    image_key: str = "image"
    label: labels.Label = dataclasses.field(default=labels.stored("label"))
    redraw: Callable[[tf.Tensor], tf.Tensor] | None = None
    manual_files: tuple[str, ...] = ()
    manual_page: str = ""
    protocol: vtab_splits.Protocol | None = None
