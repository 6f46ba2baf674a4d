"""A model to inspect, with the images that it is inspected with."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.inspection import attention_statistics, image_sets, linear_probes, measures
from vit_tf.models import network as models
from vit_tf.runs import loading
from vit_tf.runtime import devices, progress, timing

MEMORY = 2**26  # bytes that one block's attention may take at a time
_SMALLEST_BATCH = 7  # split evenly, none has fewer than comparing layers needs: 4
PROBED = 2000  # images that linear probes are fitted to, and tested on, at most


@dataclasses.dataclass(frozen=True)
class Inspector:
    """A model, and images to inspect it with.

    Attributes:
        network: the model.
        name: for the titles of figures.
        images: its inputs; None: only figures of its weights can be drawn.
        class_names: in label order; None: not known.
        sigmoid: whether classes are independent of each other.
        shown: images on a sheet, at most.
        probe: computes the linear probes; None: there are no labelled data.
        silent: whether progress is not shown.
    """

    network: models.Network
    name: str
    images: image_sets.Gallery | None = None
    class_names: Sequence[str] | None = None
    sigmoid: bool = False
    shown: int = 32
    probe: Callable[[], linear_probes.Probes] | None = None
    silent: bool = True

    @functools.cached_property
    def measured(self) -> attention_statistics.AttentionStatistics:
        """Returns the statistics of attention, computed once for all figures.

        Raises:
            errors.UserError: a ResNet, or no images.
        """
        measures.check_tokens(self.network)
        images = self.require_images()
        clock, total = timing.StepTimer(1, seconds=0.0), len(images.pixels)
        done = 0

        def batches():
            nonlocal done
            for batch in images.batches(self.batch_size):
                yield batch
                clock.tick(len(batch))
                done += len(batch)
                display.update(done, rate=clock.rate)

        with progress.Progress("attention", total=total, silent=self.silent) as display:
            return attention_statistics.measure(self.network, batches())

    def require_images(self) -> image_sets.Gallery:
        """Returns the images.

        Raises:
            errors.UserError: there are none.
        """
        if self.images is None:
            raise errors.UserError("needs images: name them with --images")
        return self.images

    @property
    def batch_size(self) -> int:
        """Returns how many images are measured at a time."""
        block = 4 * self.network.num_heads * self.network.num_tokens**2
        return min(64, max(_SMALLEST_BATCH, MEMORY // block))

    @property
    def probabilities(self) -> np.ndarray | None:
        """Returns float64 (images, classes); None without a classifier of images."""
        if not (self.network.num_classes and self.network.pools):
            return None
        logits = self.measured.outputs.astype(np.float64)
        return np.asarray(loading.probabilities(logits, sigmoid=self.sigmoid))

    def class_name(self, label: int) -> str:
        """Returns the name of a class, or 'class 3' where names are not known."""
        return self.class_names[label] if self.class_names else f"class {label}"

    @property
    def shown_images(self) -> str:
        """Returns such as '128 of 5,000 images of cifar10 test, 32 px'."""
        shown = self.require_images()
        count, total = len(shown.pixels), shown.total
        number = f"{count:,}" if count == total else f"{count:,} of {total:,}"
        images = "image" if number == "1" else "images"
        return f"{number} {images} of {shown.origin}, {self.pixels}"

    @property
    def pixels(self) -> str:
        """Returns such as '224 px'."""
        return f"{self.network.image_size} px"


def open_stored(
    path: str,
    *,
    images: str | None,
    machine: devices.Runtime,
    max_images: int,
    image_size: int | None = None,
    variant: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    shown: int = 32,
) -> Inspector:
    """Opens a run or an .npz with images from files, a folder or a data set.

    Args:
        path: a finished run's folder or an .npz of any layout.
        images: see `image_sets.load`; None: only figures of weights can be drawn.
        machine: computes the linear probes.
        max_images: how many, at most.
        image_size: position embeddings are resized to it; None: as trained.
        variant: for an .npz whose arrays fit several models.
        split: of a data set.
        data_dir: where prepared data sets lie.
        shown: images on a sheet, at most.

    Raises:
        errors.UserError: a model or images that are not there or cannot be read.
    """
    opened = loading.open_model(path, image_size=image_size, variant=variant)
    loaded, source, names = None, None, opened.class_names
    if images is not None:
        loaded, source = image_sets.load(
            images, opened.view, max_images=max_images, split=split, data_dir=data_dir
        )
    # Equal numbers of classes need not be the same classes: labels are used only where
    # the model names its classes and they are the set's.
    if source is None or names != source.class_names:
        loaded = loaded and dataclasses.replace(loaded, labels=None)
    probe = source and functools.partial(
        _probe, opened.network, source, opened.view, machine, max_images
    )
    return Inspector(
        opened.network,
        f"{opened.model.variant} ({os.path.basename(path.rstrip('/'))})",
        loaded,
        class_names=names,
        sigmoid=opened.is_sigmoid,
        shown=shown,
        probe=probe,
        silent=False,
    )


def _probe(
    network: models.Network,
    source: data_source.Source,
    view: config.View,
    machine: devices.Runtime,
    max_images: int,
) -> linear_probes.Probes:
    """Fits linear probes to a set's training split."""
    stored = source.builder.info.splits
    train, test = source.spec.final or ("train", image_sets.usual_split(source))
    if train is None or train not in stored or test == train:
        raise errors.UserError(
            f"{source.name}: linear probes need a split train and another one; there "
            f"are: {data_source.count_splits(source.builder)}"
        )
    return linear_probes.probe(
        network,
        source,
        view,
        splits=(train, test),
        machine=machine,
        max_images=max(PROBED, max_images),
    )
