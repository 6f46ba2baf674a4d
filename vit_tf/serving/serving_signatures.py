"""What a server computes: image files, or images, to classes, features, attention.

One model in inference, as functions of tensors with fixed signatures. Everything is
in the graph: a client sends the bytes of a file as they are.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import safe_decoding
from vit_tf.models import vit
from vit_tf.runs import loading
from vit_tf.serving import fused_encoder

# Larger than this, weights are stored beside the graph, in variables: protocol
# buffers, of which a graph is one, end at 2 GiB.
MAX_CONSTANT_BYTES = 3 * 2**29

Function = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class Weights(enum.StrEnum):
    """Where the weights of an export are."""

    AUTO = "auto"  # constants up to MAX_CONSTANT_BYTES
    CONSTANTS = "constants"  # in the graph: faster, the runtime lays them out once
    VARIABLES = "variables"  # in files beside it


class Scores(enum.StrEnum):
    """How logits become probabilities."""

    SOFTMAX = "softmax"  # one label per image
    SIGMOID = "sigmoid"  # any number of labels


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is served.

    Attributes:
        precision: dtype policy of the computation, and what constants are stored in.
        eval_crop: the view of an image file; None: the run's own, of an .npz resize.
        scores: None: as the run was trained, of an .npz softmax.
        top_k: classes that an answer names; fewer where the model has fewer.
        attention: adds the signature `attention`, of a ViT or a hybrid.
        weights: see `Weights`.
        max_pixels: of one file, all frames of an animation included.
        max_batch_size: images of one request.
    """

    precision: config.Precision = config.Precision.FLOAT32
    eval_crop: config.EvalCrop | None = None
    scores: Scores | None = None
    top_k: int = 5
    attention: bool = False
    weights: Weights = Weights.AUTO
    max_pixels: int = safe_decoding.MAX_PIXELS
    max_batch_size: int = 256

    def view(self, opened: loading.LoadedModel) -> config.View:
        """Returns how the model is shown an image file."""
        crop = self.eval_crop or opened.eval_crop
        return config.View(image_size=opened.image_size, eval_crop=crop)

    def of(self, opened: loading.LoadedModel) -> "Options":
        """Returns the same, with what a checkpoint says where nothing was chosen."""
        own = Scores.SIGMOID if opened.is_sigmoid else Scores.SOFTMAX
        return dataclasses.replace(
            self,
            eval_crop=self.eval_crop or opened.eval_crop,
            scores=self.scores or own,
        )


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of one tensor, and what that tensor is."""

    function: Function
    input: tf.TensorSpec


class ServedModel:
    """The signatures of a model.

    Args:
        opened: the model, made with the dtype policy of `options.precision`.
        options: see there.
        labels: a file with the name of a class on each line, in the order of labels.
        fuses: in the forms of `fused.py`, where the model fits them.

    Attributes:
        as_constants: whether the weights are in the graph.
        table: label -> name, a resource that an export has to track; None without
            classes.

    Raises:
        errors.UserError: the model has no such answer.
    """

    def __init__(
        self,
        opened: loading.LoadedModel,
        options: Options,
        labels: str,
        *,
        fuses: bool = True,
    ):
        self.model, self.options = opened.network, options.of(opened)
        if not self.model.pools:
            raise errors.UserError(
                "a model that is not pooled gives logits for every token: it cannot be "
                "exported; train with model.pool=token, gap or map"
            )
        self.data = options.view(opened)
        self.num_classes = opened.num_classes
        dtypes = read_dtypes(self.model)
        fuses = fuses and fused_encoder.fits(self.model)
        self.as_constants = _as_constants(self.model, dtypes, options, fuses)
        self._mapping, self._encode = [], None
        if self.as_constants:
            self._mapping = [
                (v, tf.cast(tf.constant(v.numpy()), dtypes[id(v)]))
                for v in self.model.variables
            ]
        self._outside = self._mapping
        if self.as_constants and fuses:
            self._encode = fused_encoder.encoder_of(self.model)
            # A scope stores all that it is given, read or not.
            inside = {id(v) for block in self.model.blocks for v in block.variables}
            self._outside = [
                pair for pair in self._mapping if id(pair[0]) not in inside
            ]
        self.table = _table(labels) if self.num_classes else None

    def signatures(self) -> dict[str, Signature]:
        """Makes name -> signature; `serving_default` is what a
        client gets who names none.
        """
        size = self.data.image_size
        files = tf.TensorSpec((None,), tf.string, "image_bytes")
        images = tf.TensorSpec((None, size, size, 3), tf.float32, "images")
        made = {}
        if self.num_classes:
            made["serving_default"] = Signature(self._of_files(self.classes), files)
            made["serving_tensor"] = Signature(self._of_images(self.classes), images)
        made["features"] = Signature(self._of_files(self.features), files)
        if self.options.attention:
            if not isinstance(self.model, vit.VisionTransformer):
                raise errors.UserError(
                    "attention=true: the model is a ResNet and attends to nothing; "
                    "leave it out"
                )
            made["attention"] = Signature(self._of_files(self.rollout), files)
        return made

    def classes(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the best classes of images (batch, size, size, 3) in [-1, 1]."""
        assert self.table is not None  # `signatures` asks only models with classes
        logits = self._compute(images)[1]
        probabilities = self.squash(logits)
        count = min(self.options.top_k, self.num_classes)
        scores, labels = tf.math.top_k(probabilities, count)
        return {
            "classes": self.table.lookup(tf.cast(labels, tf.int64)),
            "scores": scores,
            "probabilities": probabilities,
        }

    def squash(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits to probabilities."""
        is_sigmoid = self.options.scores is Scores.SIGMOID
        return loading.probabilities(logits, sigmoid=is_sigmoid)

    def features(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes what the last layer reads: float32 (batch, width)."""
        return {"features": self._compute(images)[0]}

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Computes float32 (batch, classes), for formats without names of classes."""
        return self._compute(images)[1]

    def rollout(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes attention rollout (Figure 6, D.7): float32
        (batch, g, g), not normalised.

        `inspection.rollout_map` as a row of numbers that goes through the blocks from
        the last to the first, which needs no product of matrices.
        """
        record = {}
        with _scope(self._mapping):
            self.model(self._cast(images), training=False, record=record)
        tokens, side = self.model.num_tokens, self.model.grid
        first = tokens - side * side
        # The class token's row, or without one the mean over all tokens.
        row = tf.one_hot([0], tokens) if first else tf.fill([1, tokens], 1.0 / tokens)
        row = tf.repeat(row[None], tf.shape(images)[0], axis=0)
        for i in reversed(range(self.model.num_blocks)):
            weights = tf.reduce_mean(record[vit.ATTENTION.format(i)], axis=1)
            row = 0.5 * tf.matmul(row, weights) + 0.5 * row
        return {"rollout": tf.reshape(row[:, 0, first:], (-1, side, side))}

    def _compute(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Features and logits; without classes the features twice."""
        fused = {} if self._encode is None else {"run_blocks": self._encode}
        with _scope(self._outside):
            return self.model.forward(self._cast(images), **fused)

    def _cast(self, images: tf.Tensor) -> tf.Tensor:
        return tf.cast(images, self.model.compute_dtype)

    def _of_images(self, function: Function) -> Function:
        def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies([self._check_batch(images)]):
                return function(tf.identity(images))

        return call

    def _of_files(self, function: Function) -> Function:
        """Reads image files; what cannot be read gets zeros, ''
        and a reason in `error`.
        """

        def call(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies([self._check_batch(image_bytes)]):
                image_bytes = tf.identity(image_bytes)
            images, problems = safe_decoding.views(
                image_bytes, self.data, max_pixels=self.options.max_pixels
            )
            answers = {
                name: _blanked(answer, problems == "")
                for name, answer in function(images).items()
            }
            return answers | {"error": problems}

        return call

    def _check_batch(self, batch: tf.Tensor) -> tf.Operation:
        most = self.options.max_batch_size
        return tf.debugging.assert_less_equal(
            tf.shape(batch)[0],
            most,
            message=f"too many images in one request: at most {most}; send several",
        )


@contextlib.contextmanager
def _scope(mapping: list[tuple[keras.Variable, tf.Tensor]]) -> Iterator[None]:
    """Makes these variables those constants inside; with none, they are variables."""
    if not mapping:
        yield
        return
    with keras.StatelessScope(state_mapping=mapping):
        yield


def _blanked(answers: tf.Tensor, good: tf.Tensor) -> tf.Tensor:
    """Rows that are not good as zeros, or as empty strings."""
    good = tf.reshape(good, (-1, *[1] * (answers.shape.rank - 1)))
    blank = "" if answers.dtype == tf.string else tf.zeros((), answers.dtype)
    return tf.where(good, answers, blank)


def _table(labels: str) -> tf.lookup.StaticHashTable:
    return tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            labels,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        ),
        default_value="",
    )


def _as_constants(
    model: keras.Model, dtypes: dict[int, str], options: Options, fuses: bool
) -> bool:
    def size_of(variables):
        return sum(
            v.shape.num_elements() * tf.as_dtype(dtypes[id(v)]).size for v in variables
        )

    size = size_of(model.variables)
    if options.attention and fuses:  # which reads the model's own matrices beside
        size += sum(size_of(block.variables) for block in model.blocks)
    fits = size <= MAX_CONSTANT_BYTES
    if options.weights is Weights.CONSTANTS and not fits:
        raise errors.UserError(
            f"weights=constants: {size / 2**30:.2f} GiB do not fit into a graph, which "
            f"holds {MAX_CONSTANT_BYTES / 2**30} GiB; use weights=variables"
        )
    return fits and options.weights is not Weights.VARIABLES


def read_dtypes(model: keras.Model) -> dict[int, str]:
    """Finds for the id of each variable the dtype that computations read it in.

    Keras casts it on each reading; a constant is cast once. `_flatten_layers` and
    `_autocast` are Keras' own names, which tests/serving/test_serving_signatures.py guards.
    """
    dtypes = {}
    for layer in model._flatten_layers():  # a layer before those inside it
        for v in layer.variables:
            dtypes[id(v)] = layer.compute_dtype if v._autocast else v.dtype
    return dtypes
