"""What attention does in many images: measured block by block, none of it kept.

Attention of one image is 60 MB in ViT-L/16 at 224 pixels (24 blocks, 16 heads, 197
tokens squared, float32). Each block's is reduced as soon as the block has run, so that
a batch holds that of one block, 2.5 MB an image, whatever the number of images.
"""

import dataclasses
from collections.abc import Iterable

import keras
import numpy as np

from vit_tf.inspection import measures
from vit_tf.models import network, vit


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a model's attention did in each image.

    Attributes:
        distance: (images, blocks, heads) float64 pixels, see
            `inspection.mean_attention_distance`; the paper's figure is the mean over
            images.
        entropy: (images, blocks, heads) float64 nats, see
            `inspection.attention_entropy`.
        rollout: (images, g, g) float64, see `inspection.rollout_map`.
        outputs: (images, ...) float32, what the model gives: logits, or features of a
            model without a head.
        similarity: (blocks + 1, blocks + 1) float64, linear CKA of the tokens that
            enter the first block and leave each, over the batches of four images or
            more; None if there are none.
    """

    distance: np.ndarray
    entropy: np.ndarray
    rollout: np.ndarray
    outputs: np.ndarray
    similarity: np.ndarray | None


def measure(model: keras.Model, batches: Iterable[np.ndarray]) -> Measured:
    """Runs the model over images and reduces the attention of each block at once.

    Args:
        model: a ViT or a hybrid.
        batches: arrays (batch, size, size, 3) float32 in [-1, 1] with one image or
            more, of any lengths.

    Raises:
        config.Refused: a ResNet, images of another size, or no image at all.
    """
    measures.check_tokens(model)
    found, outputs, likeness = [], [], _Likeness()
    for images in batches:
        record = _Reducing(model, likeness if len(images) >= 4 else None)
        outputs.append(
            keras.ops.convert_to_numpy(model(images, training=False, record=record))
        )
        found.append(record)
    return Measured(
        distance=np.concatenate([np.stack(r.distance, axis=1) for r in found]),
        entropy=np.concatenate([np.stack(r.entropy, axis=1) for r in found]),
        rollout=np.concatenate([measures.rollout_map(r.rollout) for r in found]),
        outputs=np.concatenate(outputs).astype("float32"),
        similarity=likeness.cka(),
    )


class _Reducing(dict):
    """A record for a model's call that reduces what it is handed and keeps no tokens."""

    def __init__(self, model, likeness: "_Likeness | None"):
        super().__init__()
        self.stride, self.likeness = model.token_stride, likeness
        self.distance, self.entropy, self.grams = [], [], []
        self.rollout = None
        blocks = range(model.num_blocks)
        self._attention = {vit.ATTENTION.format(i) for i in blocks}
        self._tokens = {vit.POSITIONED, *(vit.BLOCK.format(i) for i in blocks)}

    def __setitem__(self, name, value):
        if name in self._attention:
            self._reduce(keras.ops.convert_to_numpy(value))
        elif name in self._tokens and self.likeness is not None:
            flat = keras.ops.convert_to_numpy(value).astype(np.float64)
            flat = flat.reshape(len(flat), -1)
            self.grams.append(flat @ flat.T)
        elif name == network.ENCODED and self.likeness is not None:
            self.likeness.add(self.grams)

    def _reduce(self, weights: np.ndarray) -> None:
        """Adds one block's attention, (batch, heads, T, T)."""
        images = [[one] for one in weights[:, None]]
        self.distance.append(
            np.concatenate(
                [
                    measures.mean_attention_distance(one, patch_size=self.stride)
                    for one in images
                ]
            )
        )
        self.entropy.append(
            np.concatenate([measures.attention_entropy(one) for one in images])
        )
        self.rollout = measures.attention_rollout([weights], start=self.rollout)


class _Likeness:
    """Sums for linear CKA between layers over batches.

    The minibatch estimator of Nguyen et al. 2021 (Do Wide and Deep Networks Learn the
    Same Things?): HSIC of every pair, averaged over batches, then normalised. A batch
    counts by its images.
    """

    def __init__(self):
        self._sum, self._batches = 0.0, 0

    def add(self, grams: list[np.ndarray]) -> None:
        """Adds a batch's Gram matrices, one for each layer."""
        pairs = [[measures.hsic(k, m) for m in grams] for k in grams]
        self._sum = self._sum + len(grams[0]) * np.array(pairs)
        self._batches += 1

    def cka(self) -> np.ndarray | None:
        """(layers, layers), 1 on the diagonal; None if no batch was added."""
        if not self._batches:
            return None
        own = np.sqrt(np.maximum(np.diag(self._sum), np.finfo(np.float64).tiny))
        return self._sum / np.outer(own, own)
