"""Which model an .npz file is of, told from the names and shapes of its arrays.

The files do not say it, and a user should not have to.
"""

import re

from vit_tf import config, errors
from vit_tf.models import bit, build, npz_layouts

_BLOCK = "Transformer/encoderblock_0/"
_QUERY = f"{_BLOCK}MultiHeadDotProductAttention_1/query/kernel"
_HIDDEN = f"{_BLOCK}MlpBlock_3/Dense_0/kernel"
_RELATIVE = f"{_BLOCK}MultiHeadDotProductAttention_1/relative"
_COLUMNS = "Transformer/posembed_input/x_embedding"
_HEADS = ("head/bias", "resnet/head/conv2d/bias")
_USUAL_SIZE = 224  # pixels, where no table of positions tells


def recognise(
    arrays: npz_layouts.Arrays, *, name: str, variant: str | None = None
) -> config.Model:
    """Identifies the model that arrays under our names (`npz_weights.read_npz`) are of.

    Sizes that no variant of the paper has are given one by one. Dropout and the like
    leave no trace in a file and are off.

    Args:
        arrays: of a Transformer, a hybrid or a BiT ResNet.
        name: of the file, for messages.
        variant: what to take them for; tokens and positions are still theirs.

    Raises:
        errors.UserError: nothing that this library knows.
    """
    if variant is not None:
        named = config.Model(variant=variant)
        if "ViT" in variant:  # ResNets have nothing to tell
            named.pool, named.positions = _pool(arrays), _positions(arrays)
            named.pre_logits = "pre_logits/kernel" in arrays
        return named
    if "resnet/root_block/standardized_conv2d/kernel" in arrays:
        return _resnet(arrays, name)
    if not {"embedding/kernel", _QUERY, _HIDDEN} <= arrays.keys():
        raise errors.UserError(
            f"{name}: neither a Vision Transformer nor a BiT ResNet (its first arrays: "
            f"{', '.join(list(arrays)[:3])})"
        )
    return _transformer(arrays, name)


def num_classes(arrays: npz_layouts.Arrays) -> int:
    """Counts the classes of the last layer; 0 where a file has none."""
    return next((len(arrays[key]) for key in _HEADS if key in arrays), 0)


def image_size(arrays: npz_layouts.Arrays, model: config.Model) -> int:
    """Pixels that the file's grid of positions stands for; 224 where there is none."""
    if npz_layouts.POSITIONS in arrays:
        rows = arrays[npz_layouts.POSITIONS].shape[1] - ("cls" in arrays)
        side = round(rows**0.5)
    elif _COLUMNS in arrays:
        side = len(arrays[_COLUMNS])
    else:
        return _USUAL_SIZE
    return side * build.token_stride(model)


def _transformer(arrays: npz_layouts.Arrays, name: str) -> config.Model:
    width, heads, _ = arrays[_QUERY].shape
    sizes = {
        "depth": _count(arrays, r"Transformer/encoderblock_(\d+)/"),
        "width": width,
        "mlp_dim": arrays[_HIDDEN].shape[1],
        "num_heads": heads,
    }
    known = [size for size, usual in build.SIZES.items() if usual == sizes]
    twice = sizes | {"depth": sizes["depth"] // 2}
    if not known and "cls" not in arrays and twice in build.SIZES.values():
        raise errors.UserError(
            f"{name}: an axial or a deep Transformer, which its arrays do not tell "
            "apart; name it with --variant"
        )
    patch = _patch(arrays, name)
    # Free sizes replace those of the variant, so that any variant will do.
    size = next((s for s in known if s != "b"), "Ti")
    if patch.startswith("R") and not known:
        size = "S"
    stem, _, patch = patch.rpartition("/")
    return config.Model(
        variant=f"{f'{stem}+' if stem else ''}ViT-{size}/{patch}",
        pool=_pool(arrays),
        positions=_positions(arrays),
        pre_logits="pre_logits/kernel" in arrays,
        **({} if known else sizes),
    )


def _patch(arrays: npz_layouts.Arrays, name: str) -> str:
    """Returns '16' for patches of 16 pixels, 'R50/16' behind a ResNet of that stride."""
    patch = arrays["embedding/kernel"].shape[0]
    if "conv_root/kernel" not in arrays:
        return str(patch)
    blocks = _count(arrays, r"block(\d+)/unit", first=1)
    units = tuple(
        _count(arrays, rf"block{b + 1}/unit(\d+)/", first=1) for b in range(blocks)
    )
    for (stem, stride), counts in build.STEMS.items():
        if counts == units and patch == (1 if counts else build.ROOT_PATCH):
            return f"{stem}/{stride}"
    raise errors.UserError(
        f"{name}: a hybrid with stages of {units} units and patches of {patch}, which "
        "no variant has"
    )


def _resnet(arrays: npz_layouts.Arrays, name: str) -> config.Model:
    units = tuple(
        _count(arrays, rf"resnet/block{b}/unit(\d+)/", first=1) for b in range(1, 5)
    )
    if any("/axial/" in key for key in arrays):
        return config.Model(variant="AxialResNet50")
    root = arrays["resnet/root_block/standardized_conv2d/kernel"].shape[-1]
    factor, rest = divmod(root, bit.ROOT_WIDTH)
    for depth, counts in build.BIT_COUNTS.items():
        if counts == units and not rest:
            return config.Model(variant=f"R{depth}x{factor}")
        if counts == units:
            return config.Model(variant=f"R{depth}x1", width=root)
    raise errors.UserError(f"{name}: a ResNet with stages of {units} units, unknown")


def _pool(arrays: npz_layouts.Arrays) -> config.Pool:
    if "MAPHead_0/probe" in arrays:
        return config.Pool.MAP
    return config.Pool.TOKEN if "cls" in arrays else config.Pool.GAP


def _positions(arrays: npz_layouts.Arrays) -> config.Positions:
    if npz_layouts.POSITIONS in arrays:
        return config.Positions.LEARNED_1D
    if _COLUMNS in arrays:
        return config.Positions.LEARNED_2D
    if _RELATIVE in arrays:
        return config.Positions.RELATIVE
    return config.Positions.SINCOS_2D


def _count(arrays: npz_layouts.Arrays, pattern: str, first: int = 0) -> int:
    """Counts the numbers that stand where the pattern's group is, from `first`."""
    matches = [re.match(pattern, key) for key in arrays]
    numbers = {int(match[1]) for match in matches if match}
    return max(numbers, default=first - 1) + 1 - first
