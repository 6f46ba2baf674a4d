"""A tiny SavedModel with the signatures of an export: a stand-in, not one.

An image's classes follow from its mean colour, so that a test can compute them.
"""

import io

import numpy as np
import PIL.Image
import tensorflow as tf

NAMES = ("red", "green", "blue")
SIZE, TOP = 4, 2


class StandIn(tf.Module):
    """Scores are the soft-max of five times the mean of each colour."""

    def __init__(self, names=NAMES):
        self.names = tf.constant(list(names))
        self.scale = tf.Variable(5.0)

    def _judge(self, images):
        shares = tf.nn.softmax(self.scale * tf.reduce_mean(images, axis=(1, 2)))
        scores, labels = tf.math.top_k(shares, TOP)
        classes = tf.gather(self.names, labels)
        return {"classes": classes, "scores": scores, "probabilities": shares}

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), name="images")])
    def of_images(self, images):
        return self._judge(images)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def of_bytes(self, image_bytes):
        readable = tf.strings.substr(image_bytes, 0, 4) == b"\x89PNG"

        def view(pair):
            def decode():
                image = tf.io.decode_png(pair[0], channels=3)
                return tf.image.resize(image, (SIZE, SIZE)) / 127.5 - 1.0

            return tf.cond(pair[1], decode, lambda: tf.zeros((SIZE, SIZE, 3)))

        shape = tf.TensorSpec((SIZE, SIZE, 3))
        images = tf.map_fn(view, (image_bytes, readable), fn_output_signature=shape)
        found = self._judge(images)
        good = readable[:, None]
        return {
            "classes": tf.where(good, found["classes"], ""),
            "scores": tf.where(good, found["scores"], 0.0),
            "probabilities": tf.where(good, found["probabilities"], 0.0),
            "error": tf.where(readable, "", "not an image that this reads"),
        }


def save(folder, version=1, names=NAMES) -> str:
    """Writes FOLDER/VERSION and gives FOLDER."""
    model = StandIn(names)
    signatures = {
        "serving_default": model.of_bytes.get_concrete_function(),
        "serving_tensor": model.of_images.get_concrete_function(),
    }
    tf.saved_model.save(model, f"{folder}/{version}", signatures)
    return str(folder)


def png(color, size=8) -> bytes:
    """A PNG of one colour."""
    pixels = np.broadcast_to(np.uint8(color), (size, size, 3))
    file = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def drawn(kind) -> bytes:
    """A picture that is not of one colour, in a format of Pillow's."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def answer(color) -> list[tuple[str, float]]:
    """What the stand-in says of `png(color)`: names and scores, best first."""
    logits = 5.0 * (np.float32(color) / 127.5 - 1.0)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:TOP]
    return [(NAMES[i], float(shares[i])) for i in best]
