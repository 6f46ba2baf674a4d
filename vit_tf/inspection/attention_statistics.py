"""Statistics of attention over many images, reduced block by block.

Attention of one image is 60 MB in ViT-L/16 at 224 pixels (24 blocks, 16 heads, 197
tokens squared, float32). Each block's is reduced as soon as the block has run, so that
a batch holds that of one block, 2.5 MB an image, whatever the number of images.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from vit_tf.inspection import measures
from vit_tf.models import network, vit


@dataclasses.dataclass(frozen=True)
class AttentionStatistics:
    """Statistics of a model's attention in each image.

    Attributes:
        distance: (images, blocks, heads) float64 pixels, see
            `measures.mean_attention_distance`; the paper's figure is the mean over
            images.
        entropy: (images, blocks, heads) float64 nats, see
            `measures.attention_entropy`.
        rollout: (images, g, g) float64, see `measures.rollout_map`.
        outputs: (images, ...) float32, logits, or features of a model without a head.
        similarity: (blocks + 1, blocks + 1) float64, linear CKA of the tokens that
            enter the first block and leave each, over the batches of four images or
            more; None if there are none.
    """

    distance: np.ndarray
    entropy: np.ndarray
    rollout: np.ndarray
    outputs: np.ndarray
    similarity: np.ndarray | None


def measure(
    model: network.Network, batches: Iterable[np.ndarray]
) -> AttentionStatistics:
    """Runs a model over images and reduces each block's attention as it is computed.

    Args:
        model: a ViT or a hybrid.
        batches: arrays (batch, size, size, 3) float32 in [-1, 1] with one image or
            more, of any lengths.

    Raises:
        errors.UserError: a ResNet, images of another size, or no image at all.
    """
    measures.check_tokens(model)
    records, outputs, similarity = [], [], LayerSimilarity()
    for images in batches:
        record = Reducing(model, similarity if len(images) >= 4 else None)
        outputs.append(
            keras.ops.convert_to_numpy(model(images, training=False, record=record))
        )
        records.append(record)
    return AttentionStatistics(
        distance=np.concatenate([np.stack(r.distance, axis=1) for r in records]),
        entropy=np.concatenate([np.stack(r.entropy, axis=1) for r in records]),
        rollout=np.concatenate([measures.rollout_map(r.rollout) for r in records]),
        outputs=np.concatenate(outputs).astype("float32"),
        similarity=similarity.cka(),
    )


class Reducing(dict):
    """A record for a model's call that reduces every value at once and keeps none."""

    def __init__(self, model: network.Network, similarity: "LayerSimilarity | None"):
        super().__init__()
        self.stride, self.similarity = model.token_stride, similarity
        self.distance, self.entropy, self.grams = [], [], []
        self.rollout = None
        blocks = range(model.num_blocks)
        self._attention = {vit.ATTENTION.format(i) for i in blocks}
        self._tokens = {vit.POSITIONED, *(vit.BLOCK.format(i) for i in blocks)}

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._attention:
            self._reduce(np.asarray(keras.ops.convert_to_numpy(value)))
        elif name in self._tokens and self.similarity is not None:
            flat = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
            flat = flat.reshape(len(flat), -1)
            self.grams.append(flat @ flat.T)
        elif name == network.ENCODED and self.similarity is not None:
            self.similarity.add(self.grams)

    def _reduce(self, weights: np.ndarray) -> None:
        """Adds the statistics of one block's attention, (batch, heads, T, T)."""
        # `measures` averages over a batch; each image on its own is a batch of one.
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


class LayerSimilarity:
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
        """Returns (layers, layers), 1 on the diagonal; None if no batch was added."""
        if not self._batches:
            return None
        own = np.sqrt(np.maximum(np.diag(self._sum), np.finfo(np.float64).tiny))
        return self._sum / np.outer(own, own)
