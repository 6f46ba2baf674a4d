"""From a config's model to a built one: `ViT-B/16` and its free sizes."""

import re

import keras

from vit_tf import config
from vit_tf.models import vit

# Rows of paper.md 1.1: Table 1 (B, L, H), the later releases (Ti, S), and mu, the
# authors' size for tests.
_SIZES = {
    "mu": {"depth": 1, "width": 32, "mlp_dim": 128, "num_heads": 2},
    "Ti": {"depth": 12, "width": 192, "mlp_dim": 768, "num_heads": 3},
    "S": {"depth": 12, "width": 384, "mlp_dim": 1536, "num_heads": 6},
    "B": {"depth": 12, "width": 768, "mlp_dim": 3072, "num_heads": 12},
    "L": {"depth": 24, "width": 1024, "mlp_dim": 4096, "num_heads": 16},
    "H": {"depth": 32, "width": 1280, "mlp_dim": 5120, "num_heads": 16},
}
_NAMES = "Ti/16 S/32 S/16 B/32 B/16 B/8 L/32 L/16 H/14"


def names() -> list[str]:
    """The variants with published weights or results; any other patch works too."""
    return [f"ViT-{name}" for name in _NAMES.split()]


def build(
    model: config.Model, *, num_classes: int, image_size: int, dtype: str | None = None
) -> keras.Model:
    """The network that `model` describes, with all its variables.

    Args:
        model: the variant `ViT-<size>/<patch>`, with any integer as patch, and
            what replaces the variant's own sizes.
        num_classes: 0 leaves the last layer out.
        image_size: pixels along one side of the square images.
        dtype: a Keras dtype policy, 'float32' or 'mixed_bfloat16'; None: Keras'
            default.

    Raises:
        config.Refused: unknown variant, sizes that do not divide.
    """
    sizes = _sizes(model.variant)
    for name in sizes:
        if (own := getattr(model, name, None)) is not None:
            sizes[name] = own
    return vit.VisionTransformer(
        **sizes,
        num_classes=num_classes,
        image_size=image_size,
        pool=model.pool.value,
        pre_logits=model.pre_logits,
        head_bias=model.head_bias,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        dtype=dtype,
        name=model.variant.replace("/", "_"),
    )


def _sizes(variant: str) -> dict[str, int]:
    match = re.fullmatch(r"ViT-([A-Za-z]+)/([1-9]\d*)", variant)
    if match is None or match[1] not in _SIZES:
        same = [name for name in names() if name.lower() == variant.lower()]
        hint = config.nearest(variant, same or names())
        raise config.Refused(
            f"model.variant: {variant!r} is not ViT-<size>/<patch> with size one of "
            f"{', '.join(_SIZES)}{hint}"
        )
    return _SIZES[match[1]] | {"patch_size": int(match[2])}
