"""A checkpoint as a SavedModel for TensorFlow Serving: whole and checked, or not there.

DIR/NAME/VERSION/ has, beside the graph, `assets/labels.txt`, requests that warm a
server up, `model_card.md` and `export.json`. A server that watches DIR/NAME loads a
version when its folder appears, which happens in one step at the end. (On an object
store, which copies a folder file by file, it does not: export to a disk, then copy.)
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import tempfile
import uuid
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vit_tf import config, errors, identity
from vit_tf.data import safe_decoding
from vit_tf.runs import loading, stored_weights
from vit_tf.runtime import filesystem
from vit_tf.serving import c_runtime, model_card, parity_check, serving_signatures

_VERSION = re.compile(r"([0-9]+)(\..*)?", re.ASCII)
_WARM_UP = "assets.extra/tf_serving_warmup_requests"
# What tools/serving/batching.config allows: each is traced and laid out once.
_WARM_UP_BATCHES = (1, 2, 4, 8, 16)  # those that the export allows


@dataclasses.dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        checkpoint: a finished run's folder, or an .npz.
        to: the folder of all models.
        name: of this model; None: that of the checkpoint.
        options: how it is served.
        variant: for an .npz whose arrays do not tell it.
        image_size: pixels; position embeddings are resized. None: as trained.
        labels: a file with a class name on each line; None: the run's own.
        license: what the card says of it.
        samples: name and bytes of image files to compare the export with the
            checkpoint on; empty: `parity_check.sample_files`.
        overwrite: whether a file that another checkpoint or other settings made is
            replaced; a SavedModel never is, as it gets the next version.
    """

    checkpoint: str
    to: str
    name: str | None = None
    options: serving_signatures.Options = dataclasses.field(
        default_factory=serving_signatures.Options
    )
    variant: str | None = None
    image_size: int | None = None
    labels: str | None = None
    license: str | None = None
    samples: tuple[tuple[str, bytes], ...] = ()
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, where, and for the user to read."""

    path: str
    differences: tuple[parity_check.Difference, ...]
    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checkpoint that is about to be exported, in any format."""

    request: Request
    name: str
    options: serving_signatures.Options
    reference: loading.LoadedModel  # in float32
    opened: loading.LoadedModel  # in the precision of the export
    class_names: tuple[str, ...]
    samples: tuple[tuple[str, bytes], ...]
    wanted: dict[str, np.ndarray]
    digest: str  # of the checkpoint's weights

    def identity(self, kind: str) -> identity.Identity:
        """Returns what the export follows from, in a format such as 'onnx'."""
        return identity.Identity.of(
            weights=self.digest,
            made_from=os.path.basename(os.path.normpath(self.request.checkpoint)),
            settings={
                "format": kind,
                "image_size": self.reference.image_size,
                "class_names": identity.digest_values(self.class_names),
                **dataclasses.asdict(self.options),
            },
        )


def prepare(request: Request) -> Prepared:
    """Opens the checkpoint and computes what an export has to agree with.

    Raises:
        errors.UserError: no such checkpoint, labels that do not fit, a bad name.
    """
    name = request.name or _name_of(request.checkpoint)
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise errors.UserError(
            f"name={name}: use letters, digits, '_', '-' and '.', as it stands in URLs"
        )
    how = {"image_size": request.image_size, "variant": request.variant}
    reference = loading.open_model(request.checkpoint, dtype="float32", **how)
    opened, precision = reference, request.options.precision
    if precision is not config.Precision.FLOAT32:
        opened = loading.open_model(request.checkpoint, dtype=str(precision), **how)
    options = request.options.of(reference)
    drawn = enumerate(parity_check.sample_files())
    samples = request.samples or tuple((f"drawn picture {i}", d) for i, d in drawn)
    wanted = {}
    if reference.network.pools:  # others are refused by name in `served`
        _check_samples(samples, reference, options)
        encoded = [data for _, data in samples]
        wanted = parity_check.expected(reference, options, encoded)
    return Prepared(
        request,
        name,
        options,
        reference,
        opened,
        _class_names(request, reference),
        samples,
        wanted,
        stored_weights.digest(request.checkpoint),
    )


def _check_samples(
    samples: Sequence[tuple[str, bytes]],
    reference: loading.LoadedModel,
    options: serving_signatures.Options,
) -> None:
    """Refuses a sample that the export would not read, with its name."""
    data = options.view(reference)
    encoded = tf.constant([data for _, data in samples])
    _, problems = safe_decoding.views(encoded, data, max_pixels=options.max_pixels)
    for (name, _), problem in zip(samples, problems.numpy()):
        if problem:
            raise errors.UserError(
                f"{name}: {problem.decode()}; the export is compared with the "
                "checkpoint on it, so name other --images or raise --max_pixels"
            )


def saved_model(request: Request) -> Exported:
    """Writes the next version of a model.

    Raises:
        errors.UserError: what `prepare` refuses, an export that disagrees with the
            checkpoint, or a folder that cannot be written. Nothing is left then.
    """
    this = prepare(request)
    folder = os.path.join(request.to, this.name)
    with filesystem.refusing(folder):
        tf.io.gfile.makedirs(folder)
        version = next_version(folder)
    path = os.path.join(folder, str(version))
    # Not a number: no server takes it for a version. Its own: nobody else writes it.
    partial = os.path.join(folder, f"version-{version}.{uuid.uuid4().hex}.unfinished")
    try:
        exported = write(this, partial, version)
        with filesystem.refusing(path):
            tf.io.gfile.rename(partial, path)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError, OSError):
            filesystem.remove(partial)
        raise
    lines = (*exported.lines, *compare_versions(folder, version))
    return dataclasses.replace(exported, path=path, lines=lines)


def compare_versions(folder: str, version: int) -> list[str]:
    """Says what a client will notice when this version takes the place of the last one."""
    last = os.path.join(folder, str(version - 1), "export.json")
    if not tf.io.gfile.exists(last):
        return []
    new = os.path.join(folder, str(version), "export.json")
    old, new = (json.loads(filesystem.read(path)) for path in (last, new))
    keys = ("model", "class_names", "image_size", "signatures")
    changed = [key for key in keys if old[key] != new[key]]
    if not changed:
        return []
    line = (
        f"WARNING: version {version} takes the place of version {version - 1} and has "
        f"another {', '.join(changed)}: clients will see it; use --name for another model"
    )
    return [line]


def next_version(folder: str) -> int:
    """Returns one more than the largest version in the folder of a model; 1 at first.

    A version that was moved away, as `2.withdrawn`, counts: its number was served.
    """
    matches = [_VERSION.fullmatch(n.rstrip("/")) for n in tf.io.gfile.listdir(folder)]
    return 1 + max((int(match[1]) for match in matches if match), default=0)


def write(this: Prepared, folder: str, version: int) -> Exported:
    with tempfile.TemporaryDirectory() as scratch:
        labels = os.path.join(scratch, "labels.txt")
        filesystem.write_whole(
            labels, "".join(f"{n}\n" for n in this.class_names) or "\n"
        )
        graph = serving_signatures.ServedModel(this.opened, this.options, labels)
        signatures = graph.signatures()
        archive: Any = keras.export.ExportArchive()  # of the backend
        if graph.table is not None:
            archive.track(graph.table)
        for name, signature in signatures.items():
            archive.add_endpoint(name, signature.function, [signature.input])
        archive.write_out(folder, verbose=False)
    differences = _check(this, folder, list(signatures))
    lines = list(this.opened.lines)
    lines += [
        f"{d.name} agrees with the checkpoint: {d.size:.2g} (allowed {d.limit:g})"
        for d in differences
    ]
    lines.append(_write_warm_up(this, folder, next(iter(signatures))))
    facts = model_card.facts(
        checkpoint=os.path.basename(os.path.normpath(this.request.checkpoint)),
        name=this.name,
        version=version,
        opened=this.opened,
        options=this.options,
        result=result_of(this.request.checkpoint),
        class_names=this.class_names,
        license=this.request.license,
        made_by=this.identity("saved_model"),
        differences=differences,
        signatures=list(signatures),
        weights="constants" if graph.as_constants else "variables",
    )
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    filesystem.write_whole(os.path.join(folder, "export.json"), text)
    filesystem.write_whole(
        os.path.join(folder, "model_card.md"), model_card.text(facts)
    )
    return Exported(folder, tuple(differences), tuple(lines))


def _check(
    this: Prepared, folder: str, signatures: Sequence[str]
) -> list[parity_check.Difference]:
    """Loads what was written as a server would, where its runtime is at hand."""
    compare = functools.partial(
        parity_check.compare,
        signatures=signatures,
        wanted=this.wanted,
        files=[sample for _, sample in this.samples],
        options=this.options,
        class_names=this.class_names,
    )
    if c_runtime.is_available() and "://" not in folder:
        with c_runtime.Model(folder) as model:
            return compare(model)
    loaded = tf.saved_model.load(folder)

    def run(signature, inputs):
        function = loaded.signatures[signature]
        tensors = {name: tf.constant(list(array)) for name, array in inputs.items()}
        return {k: v.numpy() for k, v in function(**tensors).items()}

    return compare(run)


def _write_warm_up(this: Prepared, folder: str, signature: str) -> str:
    """Requests that a server answers once before it takes others (TensorFlow Serving)."""
    try:
        from tensorflow_serving.apis import (  # pyright: ignore[reportMissingImports]
            predict_pb2,
            prediction_log_pb2,
        )
    except ImportError:
        return (
            "no warm-up requests: tensorflow-serving-api is not installed "
            "(pip install -r requirements-serving.txt)"
        )
    most = this.options.max_batch_size
    sizes = [count for count in _WARM_UP_BATCHES if count <= most]
    path = os.path.join(folder, _WARM_UP)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for count in sizes:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = this.name
            request.model_spec.signature_name = signature
            batch = [this.samples[i % len(this.samples)][1] for i in range(count)]
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(batch))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    listed = ", ".join(map(str, sizes))
    return f"warm-up requests of {listed} images for {signature}"


def _class_names(request: Request, opened: loading.LoadedModel) -> tuple[str, ...]:
    """Returns class names by label: from the file, from the run, or the numbers."""
    count, names = opened.num_classes, opened.labels
    whose = request.checkpoint
    if request.labels is not None:
        names, whose = _read_names(request.labels), request.labels
    if len(names) != count:
        raise errors.UserError(
            f"{whose}: {len(names)} lines, and the model has {count} classes; put one "
            "name on each line, in the order of the labels"
        )
    for label, name in enumerate(names):
        # A server reads them from a file of lines.
        if not name.strip() or "\n" in name or "\r" in name:
            raise errors.UserError(
                f"{whose}: class {label} is called {name!r}; a name is one line of text: "
                "give all names with --labels=FILE"
            )
    return names


def _read_names(path: str) -> tuple[str, ...]:
    with filesystem.reading(path):
        try:
            text = filesystem.read(path)
        except UnicodeDecodeError:
            raise errors.UserError(f"{path}: is not UTF-8 text; convert it") from None
    return tuple(
        line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")
    )


def _name_of(checkpoint: str) -> str:
    path = os.path.abspath(loading.run_around(checkpoint))
    name = os.path.basename(path)
    return re.sub(r"[^\w.-]+", "_", name.removesuffix(".npz"))


def result_of(checkpoint: str) -> dict | None:
    """Reads the result that the run left; None of an .npz."""
    path = os.path.join(loading.run_around(checkpoint), "result.json")
    return json.loads(filesystem.read(path)) if tf.io.gfile.exists(path) else None
