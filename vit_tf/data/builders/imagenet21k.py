"""ImageNet-21k, which TFDS lacks: from the owner's files to a prepared data set.

The source is the unpacked release: a tar file for each synset (n01440764.tar), or a
folder for each. All images become one split, `full`, in TFDS's format and in the
order in which TFDS would shuffle them; big_vision cuts the same split into training
and held-out images (its configs/vit_i21k.py). Image files are stored as they are.

Classes. Labels count the synsets in sorted order: 21,841 in release fall11. The heads
of the released checkpoints have 21,843 classes: BiT's published list of them is
sorted too and holds the same synsets and two more, of which there are no images
(`HEAD_ONLY`; compared with the lists of big_transfer and timm). So labels from
`--class_list=released` are places in those heads. For winter21 and for parts, give a
file with one synset a line instead: it settles order and number of the classes.
"""

import collections
import contextlib
import dataclasses
import pathlib
import shutil
import sqlite3
from collections.abc import Iterator, Mapping

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import shard_utils

from vit_tf import errors
from vit_tf.data import safe_decoding
from vit_tf.data.preparation import shard_writer, synsets
from vit_tf.runtime import filesystem, progress

NAME = "imagenet21k"
VERSION = "1.0.0"
SPLIT = "full"
# Release of each name of the data set; the paper's is that of autumn 2011.
RELEASES = {"imagenet21k": "fall11", "imagenet21k/winter21": "winter21"}
NUM_SYNSETS = {"fall11": 21_841, "winter21": 19_167}
HEAD_ONLY = ("n03931044", "n09859684")  # labels 9,205 and 15,027 of released heads
RELEASED = "released"

# Splits (train, evaluation), of big_vision's configs/vit_i21k.py.
DEVELOPMENT = ("full[51200:]", "full[25600:51200]")
FINAL = ("full[51200:]", "full[:25600]")

SKIPPED_FILE = "skipped.txt"
_OVERHEAD_BYTES = 128  # of a record beyond its image, about


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to prepare.

    Attributes:
        name: a key of RELEASES.
        source: folder with a tar file or a folder for each synset.
        class_list: file that names the classes in order, or 'released'.
        partial: whether a part of the release will do.
        skip_corrupt: whether to leave out images that cannot be decoded.
        num_processes: that read, check and write.
        num_shards: number of files; as TFDS would choose if None.
    """

    name: str = NAME
    source: str | None
    class_list: str | None = None
    partial: bool = False
    skip_corrupt: bool = False
    num_processes: int = 1
    num_shards: int | None = None

    @property
    def release(self) -> str:
        return RELEASES[self.name]


def prepare(request: Request, root: str) -> None:
    """Writes the data set below `root`; goes on where an earlier call was cut off.

    Raises:
        errors.UserError: see `synsets.find`, `choose_classes` and `shards.write`; also
            a damaged tar file, no space, and images that cannot be decoded.
    """
    if "://" in root:
        raise errors.UserError(
            f"--data_dir={root}: need a folder of this machine; copy the prepared data "
            "set from there, it can be read from anywhere"
        )
    home = pathlib.Path(root) / NAME / request.release
    target, work = home / VERSION, home / f"work.{VERSION}"
    if (target / "dataset_info.json").exists():
        filesystem.remove(str(work))  # what a kill at the last moment has left
        print(f"{request.name}: already prepared in {target}")
        return
    if not request.source:
        raise errors.UserError(
            f"--dataset={request.name}: needs --source=FOLDER, the unpacked release "
            f"{request.release}: a tar file or a folder for each synset; ask "
            "image-net.org for it"
        )
    available, others = synsets.find(request.source)
    if others:
        print(f"Ignored, no synsets by their names: {_some(others)}")
    names = choose_classes(request, tuple(available))
    known = set(names)
    if left_out := [synset for synset in available if synset not in known]:
        print(f"Left out, not in the class list: {_some(left_out)}")
    with filesystem.refusing(str(work)):
        work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        _keep_classes(work, names)
        index = synsets.Index(
            work / "index.sqlite",
            {synset: path for synset, path in available.items() if synset in known},
            SPLIT,
        )
        _write(request, index, names, target)


def choose_classes(request: Request, available: tuple[str, ...]) -> tuple[str, ...]:
    """Returns class names in label order.

    Args:
        request: says which release and which list.
        available: the synsets there are, sorted.

    Raises:
        errors.UserError: not the whole release, or not in the list, unless partial.
    """
    expected = NUM_SYNSETS[request.release]
    gap = len(available) - expected
    if gap and not request.partial:
        raise errors.UserError(
            f"--source={request.source}: holds {len(available):,} synsets, "
            f"{abs(gap):,} {'more' if gap > 0 else 'fewer'} than the {expected:,} of "
            f"{request.release}; go on with what is there with --partial"
        )
    if request.class_list is None:
        return available
    if request.class_list == RELEASED:
        if gap or request.release != "fall11":
            raise errors.UserError(
                "--class_list=released: is known for the whole of fall11 only; give "
                "a file that lists the 21,843 classes"
            )
        return tuple(sorted({*available, *HEAD_ONLY}))
    names = synsets.read_class_list(request.class_list)
    known = set(names)
    unknown = [synset for synset in available if synset not in known]
    if len(unknown) == len(available) or (unknown and not request.partial):
        raise errors.UserError(
            f"--class_list={request.class_list}: lacks {len(unknown):,} synsets of "
            f"{request.source} ({_some(unknown)}); leave those out with --partial"
        )
    return names


def features(names: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """Returns the features of a record: image, label and file name."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=names),
            "file_name": tfds.features.Text(),
        }
    )


@dataclasses.dataclass(frozen=True)
class Records:
    """The serialized records of a shard, by its number."""

    index: synsets.Index
    labels: Mapping[str, int]
    bounds: tuple[int, ...]  # shard i holds images bounds[i] to bounds[i + 1] - 1

    def __call__(self, shard: int) -> Iterator[bytes | shard_writer.Bad]:
        for place in self.index.places(self.bounds[shard], self.bounds[shard + 1]):
            yield self.encode_record(place)

    def encode_record(self, place: synsets.Place) -> bytes | shard_writer.Bad:
        if place.trouble:
            return shard_writer.Bad(place.name, place.trouble)
        encoded = self.index.read(place)
        why = safe_decoding.explain(encoded)
        if why:
            return shard_writer.Bad(place.name, why)
        example = tf.train.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(encoded)
        feature["label"].int64_list.value.append(self.labels[place.synset])
        feature["file_name"].bytes_list.value.append(place.name.encode())
        # Else the order of the three may differ between processes.
        return example.SerializeToString(deterministic=True)


def _write(
    request: Request,
    index: synsets.Index,
    names: tuple[str, ...],
    target: pathlib.Path,
) -> None:
    """Lists, writes, checks and finishes."""
    with progress.Progress(
        "Listing synsets", total=len(index.homes), unit="synset"
    ) as display:
        for _ in index.build(request.num_processes):
            display.advance(1)
    num_images, num_bytes, per_synset = index.count()
    if not num_images:
        raise errors.UserError(f"--source={request.source}: no files in its synsets")
    print(f"{request.source}: {len(index.homes):,} synsets, {num_images:,} images")
    num_bytes += num_images * _OVERHEAD_BYTES
    # TFDS chooses 2,048 files for the whole data set.
    config_of_tfds = shard_utils.ShardConfig
    count = request.num_shards or config_of_tfds.calculate_number_shards(
        total_size=num_bytes, num_examples=num_images
    )
    bounds = tuple(num_images * shard // count for shard in range(count + 1))
    labels = {name: label for label, name in enumerate(names)}
    plan = shard_writer.Plan(
        directory=target.with_name(f"incomplete.{VERSION}"),
        notes=index.path.parent,
        name=f"{NAME}-{SPLIT}",
        num_shards=count,
        records=Records(index, labels, bounds),
        keep_bad=request.skip_corrupt,
    )
    notes = shard_writer.finished(plan)
    there = sum(note.num_examples + len(note.bad) for note in notes.values())
    if notes:
        print(f"Going on: {len(notes):,} of {count:,} files are finished")
    check_space(target.parent, num_bytes * (num_images - there) // num_images)
    with progress.Progress("Writing images", total=num_images, done=there) as display:
        for note in shard_writer.write(plan, request.num_processes):
            notes[note.shard] = note
            display.advance(note.num_examples + len(note.bad))
    bad = [one for shard in sorted(notes) for one in notes[shard].bad]
    _report_bad(request, plan, bad, num_images)
    lost = collections.Counter(one.name.split("/")[0] for one in bad)
    empty = [n for n in names if per_synset.get(n, 0) == lost[n]]
    if empty:
        print(f"Classes without images: {_some(empty)}")
    _finish(request, plan, [notes[shard] for shard in range(count)], names, target)


def _report_bad(
    request: Request,
    plan: shard_writer.Plan,
    bad: list[shard_writer.Bad],
    num_images: int,
) -> None:
    """Lists images that cannot be decoded; refuses them unless asked to skip them."""
    if not bad:
        return
    bad = sorted(bad, key=lambda one: one.name)
    lines = "".join(f"{one.name}\t{one.reason}\n" for one in bad)
    if request.skip_corrupt:
        filesystem.write_whole(str(plan.directory / SKIPPED_FILE), lines)
        return
    listed = plan.notes / "unreadable.txt"
    filesystem.write_whole(str(listed), lines)
    raise errors.UserError(
        f"--source={request.source}: {len(bad):,} of {num_images:,} images cannot be "
        f"decoded, the first is {bad[0].name} ({bad[0].reason}), all are in {listed}; "
        "leave them out with --skip_corrupt, which keeps what is written"
    )


def _finish(
    request: Request,
    plan: shard_writer.Plan,
    notes: list[shard_writer.Note],
    names: tuple[str, ...],
    target: pathlib.Path,
) -> None:
    """Adds what TFDS wants to know, and lets the data set appear."""
    num_examples = sum(note.num_examples for note in notes)
    num_skipped = sum(len(note.bad) for note in notes)
    if not num_examples:
        raise errors.UserError(f"--source={request.source}: no image can be decoded")
    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(plan.directory),
        dataset_name=NAME,
        split=SPLIT,
        filetype_suffix="tfrecord",
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[note.num_examples for note in notes],
        num_bytes=sum(note.num_bytes for note in notes),
        filename_template=template,
    )
    with filesystem.refusing(str(plan.directory)):
        tfds.folder_dataset.write_metadata(
            data_dir=plan.directory,
            features=features(names),
            split_infos=[split],
            version=VERSION,
            check_data=False,
            description=f"ImageNet-21k, release {request.release}; one synset an image.",
            homepage="https://www.image-net.org",
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(
                release=request.release, partial=request.partial, skipped=num_skipped
            ),
        )
        plan.directory.rename(target)
        shutil.rmtree(plan.notes)
    print(
        f"Prepared in {target}: {SPLIT} {num_examples:,}, {len(names):,} classes"
        + (
            f"; skipped {num_skipped:,}, see {SKIPPED_FILE} there"
            if num_skipped
            else ""
        )
    )


@contextlib.contextmanager
def _alone(work: pathlib.Path) -> Iterator[None]:
    """Refuses to work where another process does; a killed one is no hindrance."""
    path = work / "lock.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise errors.UserError(
                f"{work}: another process is preparing this data set ({error})"
            ) from None
        yield


def _keep_classes(work: pathlib.Path, names: tuple[str, ...]) -> None:
    """Writes the classes down, or refuses other ones than an earlier run's."""
    path, text = work / "classes.txt", "".join(f"{name}\n" for name in names)
    if not path.exists():
        filesystem.write_whole(str(path), text)
    elif path.read_text() != text:
        raise errors.UserError(
            f"{work}: begun with other classes; use the same synsets and --class_list, "
            "or remove that folder to begin again"
        )


def check_space(directory: pathlib.Path, needed: int) -> None:
    """Refuses to begin where the disk has less than `needed` bytes."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise errors.UserError(
            f"{directory}: {needed / 1e9:,.1f} GB are still to be written, "
            f"{free / 1e9:,.1f} GB are free"
        )


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
