"""From a config's model to a built one: every architecture of the paper, by name.

Names are the paper's: `ViT-B/16`, a hybrid `R50+ViT-B/16`, a BiT ResNet `R50x1`,
`Axial-ViT-B/32`, `AxialResNet50`.
"""

import re
from collections.abc import Callable
from concurrent import futures
from typing import Any

import keras

from vit_tf import config, config_values, errors
from vit_tf.models import bit, resnet, vit

# Sizes: those of Table 1 (B, L, H), Figure 4 (b, with heads of the usual 64),
# later releases (Ti, S, M, So400m, g, G), and mu, the authors' size for tests.
SIZES = {
    "mu": {"depth": 1, "width": 32, "mlp_dim": 128, "num_heads": 2},
    "Ti": {"depth": 12, "width": 192, "mlp_dim": 768, "num_heads": 3},
    "S": {"depth": 12, "width": 384, "mlp_dim": 1536, "num_heads": 6},
    "b": {"depth": 12, "width": 384, "mlp_dim": 1536, "num_heads": 6},
    "M": {"depth": 12, "width": 512, "mlp_dim": 2048, "num_heads": 8},
    "B": {"depth": 12, "width": 768, "mlp_dim": 3072, "num_heads": 12},
    "L": {"depth": 24, "width": 1024, "mlp_dim": 4096, "num_heads": 16},
    "So400m": {"depth": 27, "width": 1152, "mlp_dim": 4304, "num_heads": 16},
    "H": {"depth": 32, "width": 1280, "mlp_dim": 5120, "num_heads": 16},
    "g": {"depth": 40, "width": 1408, "mlp_dim": 6144, "num_heads": 16},
    "G": {"depth": 48, "width": 1664, "mlp_dim": 8192, "num_heads": 16},
}

# Hybrids: ResNet and total stride -> units of its stages. Stride 16 of R50 has stage
# 4's units in stage 3 (section 4.1). R is the root alone, and what the authors call
# R+Ti/16 has in truth a stride of 32. R14 and R8, a unit in each of four or two stages,
# are ours, for images of 32 pixels.
STEMS = {
    ("R50", 16): (3, 4, 9),
    ("R50", 32): (3, 4, 6, 3),
    ("R26", 32): (2, 2, 2, 2),
    ("R14", 32): (1, 1, 1, 1),
    ("R8", 8): (1, 1),
    ("R", 16): (),
}
ROOT_PATCH = 8  # positions of the root's map in a patch of R+ViT-Ti/16

# 14 and 26 were never published; with `model.width` they fit small studies.
BIT_COUNTS = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

# Every variant with published weights or results, and where its weights were released;
# '' where nowhere.
_I21K, _AUGREG, _BIT = "paper (ImageNet-21k)", "AugReg", "BiT-S, BiT-M"
NAMES = {
    "ViT-Ti/16": _AUGREG,
    "ViT-S/32": _AUGREG,
    "ViT-S/16": f"{_AUGREG}, plain ViT",
    "ViT-b/32": "",
    "ViT-M/32": "",
    "ViT-M/16": "",
    "ViT-B/32": f"{_I21K}, {_AUGREG}",
    "ViT-B/16": f"{_I21K}, {_AUGREG}",
    "ViT-B/8": _AUGREG,
    "ViT-L/32": _I21K,
    "ViT-L/16": f"{_I21K}, {_AUGREG}",
    "ViT-So400m/14": "",
    "ViT-H/14": _I21K,
    "ViT-g/14": "",
    "ViT-G/14": "",
    "R+ViT-Ti/16": _AUGREG,
    "R26+ViT-S/32": _AUGREG,
    "R26+ViT-B/32": "",
    "R50+ViT-B/16": _I21K,
    "R50+ViT-B/32": "",
    "R50+ViT-L/16": "",
    "R50+ViT-L/32": _AUGREG,
    "R50x1": _BIT,
    "R50x2": "",
    "R50x3": _BIT,
    "R101x1": _BIT,
    "R101x3": _BIT,
    "R152x1": "",
    "R152x2": "BiT-M",
    "R152x4": _BIT,
    "R200x3": "",
    "Axial-ViT-B/32": "",
    "Axial-ViT-B/16": "",
    "AxialResNet50": "",
}


def names() -> list[str]:
    """Lists the variants with published weights or results; other patches work too."""
    return list(NAMES)


def build(
    model: config.Model, *, num_classes: int, image_size: int, dtype: str | None = None
) -> keras.Model:
    """Builds the network that `model` describes, with all its variables.

    Args:
        model: the variant, one of `names()` or one like them: any integer as the
            patch of a ViT or Axial-ViT, any size in a hybrid, any width of a ResNet;
            and what replaces the variant's own sizes.
        num_classes: 0 leaves the last layer out.
        image_size: pixels along one side of the square images.
        dtype: a Keras dtype policy, 'float32' or 'mixed_bfloat16'; None: Keras'
            default.

    Raises:
        errors.UserError: unknown variant, sizes that do not divide, settings that the
            variant does not have.
    """
    make, settings = _describe(model)
    return make(
        **settings,
        num_classes=num_classes,
        image_size=image_size,
        head_bias=model.head_bias,
        remat=model.remat,
        dtype=dtype,
        name=re.sub(r"[/+]", "_", model.variant),
    )


def outline(
    model: config.Model, *, num_classes: int, image_size: int, dtype: str | None = None
) -> keras.Model:
    """Builds the same network with shapes only: nothing is allocated.

    It runs only where it is handed its weights, as by Keras' `stateless_call`.
    """
    if dtype is None:  # which a thread does not take over from another
        dtype = keras.config.dtype_policy().name

    def describe() -> keras.Model:
        with keras.StatelessScope(initialize_variables=False):
            return build(
                model, num_classes=num_classes, image_size=image_size, dtype=dtype
            )

    # Keras keeps, for each thread, a list of variables to allocate later, and allocates
    # them all when the next symbolic call ends: of every outline ever made. This
    # thread's list ends with it.
    with futures.ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(describe).result()


def token_stride(model: config.Model) -> int:
    """Pixels from one token of `model` to the next; of a ResNet, of its last map."""
    _, settings = _describe(model)
    counts = settings.get("stem", settings.get("counts"))
    ratio = 1 if counts is None else resnet.stem_ratio(counts)
    return ratio * settings.get("patch_size", 1)


def _describe(
    model: config.Model,
) -> tuple[Callable[..., keras.Model], dict[str, Any]]:
    """Finds the variant's constructor, and its arguments but for what `build` knows."""
    variant = model.variant
    if match := re.fullmatch(r"(?:(R\d*)\+)?(Axial-)?ViT-(\w+)/([1-9]\d*)", variant):
        stem, axial, size, patch = match[1], match[2], match[3], int(match[4])
        known = size in SIZES and (size != "b" or patch == 32)
        if known and stem is None:
            return _transformer(
                model, size, {"patch_size": patch, "axial": bool(axial)}
            )
        if known and not axial and (stem, patch) in STEMS:
            counts = STEMS[stem, patch]
            on_map = 1 if counts else ROOT_PATCH
            return _transformer(model, size, {"patch_size": on_map, "stem": counts})
    if match := re.fullmatch(r"R(\d+)x([1-9]\d*)", variant):
        counts = BIT_COUNTS.get(int(match[1]))
        if counts:
            _refuse_what_only_transformers_have(model)
            width = model.width or bit.ROOT_WIDTH
            return bit.BiT, {
                "counts": counts,
                "width_factor": int(match[2]),
                "root_width": width,
            }
    if variant == "AxialResNet50":
        _refuse_what_only_transformers_have(model)
        return bit.BiT, {"counts": BIT_COUNTS[50], "width_factor": 1, "axial": True}
    raise _unknown(variant)


def _transformer(
    model: config.Model, size: str, kind: dict[str, Any]
) -> tuple[Callable[..., keras.Model], dict[str, Any]]:
    """Returns `vit.VisionTransformer` and its arguments."""
    settings = SIZES[size] | kind
    for name in SIZES[size]:
        if (own := getattr(model, name)) is not None:
            settings[name] = own
    usual = config.Pool.GAP if kind.get("axial") else config.Pool.TOKEN
    return vit.VisionTransformer, settings | {
        "pool": (model.pool or usual).value,
        "positions": model.positions.value,
        "positions_at": model.positions_at.value,
        "pre_logits": model.pre_logits,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "stochastic_depth": model.stochastic_depth,
        "stochastic_depth_rescale": model.stochastic_depth_rescale,
    }


def _refuse_what_only_transformers_have(model: config.Model) -> None:
    plain = config.Model(
        variant=model.variant, head_bias=model.head_bias, remat=model.remat
    )
    if model.variant != "AxialResNet50":
        plain.width = model.width  # of the root
    if model.pool is config.Pool.GAP:
        plain.pool = model.pool  # what it does anyway
    ours, usual = config_values.fields(model), config_values.fields(plain)
    for name in ours:
        if ours[name] != usual[name]:
            raise errors.UserError(
                f"model.{name}={ours[name]}: {model.variant} is a ResNet and has no "
                f"such part; leave it at {usual[name]}"
            )


def _unknown(variant: str) -> errors.UserError:
    same = [name for name in NAMES if name.lower() == variant.lower()]
    hint = errors.nearest(variant, same or NAMES)
    return errors.UserError(
        f"model.variant: {variant!r} is not ViT-<size>/<patch> with size one of "
        f"{', '.join(SIZES)}, nor a hybrid, ResNet or axial model{hint}; "
        "`vit_tf.list_models()` has all"
    )
