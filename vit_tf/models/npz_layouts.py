"""Names of arrays in the authors' files: every published layout, to ours and back.

Ours is that of the paper's own release, `Transformer/encoderblock_0/LayerNorm_0/scale`
(vit_jax/checkpoint.py), and for ResNets that of BiT. Arrays here are NumPy's.
"""

import enum
import re

import numpy as np

Arrays = dict[str, np.ndarray]

POSITIONS = "Transformer/posembed_input/pos_embedding"

# Where files with more than the weights keep them; the first that is there is read.
_PREFIXES = ("opt/target/", "params/img/", "params/")

# Counters of layers in a block: one over all kinds of layer in the old files, one
# for each kind in those that Flax Linen wrote.
_LINEN = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}
_BLOCK = re.compile(r"^(Transformer/encoderblock(?:_\d+)?)/([^/]+)(/.*)$")
_SCANNED = re.compile(r"^Transformer/encoderblock/(.*)$")
_GROUP_NORM = re.compile(r"(^|/)gn(\d+|_root|_proj)/(scale|bias)$")
_NUMBERED_CONVOLUTION = re.compile(r"/standardized_conv2d_\d+/")


class Layout(enum.StrEnum):
    """How a written file names its arrays."""

    RELEASED = "released"  # the paper's, AugReg's and BiT's files
    BIG_VISION = "big_vision"  # what the authors' later code reads and writes


def to_ours(arrays: Arrays) -> tuple[Arrays, list[str]]:
    """Arrays of any published layout under our names, float32 where stored shorter.

    Returns:
        The arrays, and lines that say what was renamed, split or unfolded.
    """
    lines = []
    for change in (
        _take_weights,
        _recover_bfloat16,
        _split_scanned,
        _rename_linen,
        _move_positions,
        _squeeze_group_norms,
        _drop_numbers,
    ):
        arrays, line = change(arrays)
        lines += [line] if line else []
    return arrays, lines


def from_ours(arrays: Arrays, layout: Layout) -> Arrays:
    """Returns our arrays under the names of `layout`, as copies where they change.

    big_vision adds the class token's position to the token itself, so the
    two come back as one; the network computes the same.
    """
    if layout is Layout.RELEASED:
        return dict(arrays)
    old_to_linen = {old: linen for linen, old in _LINEN.items()}
    renamed = _rename_blocks(arrays, old_to_linen)
    if POSITIONS in renamed:
        table = renamed.pop(POSITIONS)
        if "cls" in renamed:
            renamed["cls"] = renamed["cls"] + table[:, :1]
            table = table[:, 1:]
        renamed["pos_embedding"] = table
    return {f"params/{name}": array for name, array in renamed.items()}


def _take_weights(arrays: Arrays) -> tuple[Arrays, str]:
    """Leaves out a common prefix, and with it the optimizer's state."""
    for prefix in _PREFIXES:
        inner = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        if inner:
            left = len(arrays) - len(inner)
            also = f", {left} others left out" if left else ""
            return inner, f"names: below {prefix}{also}"
    return arrays, ""


def _recover_bfloat16(arrays: Arrays) -> tuple[Arrays, str]:
    """Gives bfloat16 its type again, which NumPy stores as two bytes without one."""
    short = [name for name, array in arrays.items() if array.dtype == np.dtype("V2")]
    if not short:
        return arrays, ""
    widened = {
        name: (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        for name, array in arrays.items()
        if name in set(short)
    }
    return arrays | widened, f"bfloat16: {len(short)} arrays widened to float32"


def _split_scanned(arrays: Arrays) -> tuple[Arrays, str]:
    """Blocks that were stacked along a first axis, one by one."""
    split, depth = {}, 0
    for name, array in arrays.items():
        match = _SCANNED.match(name)
        if match is None or array.ndim == 0:
            split[name] = array
            continue
        depth = len(array)
        for i, part in enumerate(array):
            split[f"Transformer/encoderblock_{i}/{match[1]}"] = part
    return split, f"blocks: {depth} unstacked" if depth else ""


def _rename_linen(arrays: Arrays) -> tuple[Arrays, str]:
    if not any("/MlpBlock_0/" in name and _BLOCK.match(name) for name in arrays):
        return arrays, ""
    return _rename_blocks(arrays, _LINEN), "blocks: renamed from Flax Linen's counters"


def _rename_blocks(arrays: Arrays, names: dict[str, str]) -> Arrays:
    """Renames the layers of encoder blocks; not those of an attention pool."""

    def renamed(name: str) -> str:
        match = _BLOCK.match(name)
        if match is None:
            return name
        return f"{match[1]}/{names.get(match[2], match[2])}{match[3]}"

    return {renamed(name): array for name, array in arrays.items()}


def _move_positions(arrays: Arrays) -> tuple[Arrays, str]:
    """Adds a row of zeros for the class token, which big_vision's table lacks."""
    arrays = dict(arrays)
    for name in ("pos_embedding", "Transformer/pos_embedding"):
        if name not in arrays:
            continue
        table = arrays.pop(name)
        line = f"position embeddings: from {name}"
        if "cls" in arrays and table.ndim == 3 and _is_square(table.shape[1]):
            zero = np.zeros_like(table[:, :1])
            table = np.concatenate([zero, table], axis=1)
            line += ", with a zero for the class token"
        arrays[POSITIONS] = table
        return arrays, line
    return arrays, ""


def _squeeze_group_norms(arrays: Arrays) -> tuple[Arrays, str]:
    """Removes axes where old files hold (1, 1, 1, C) and (C,) is meant."""
    wide = {
        name: array.reshape(-1)
        for name, array in arrays.items()
        if _GROUP_NORM.search(name) and array.ndim > 1
    }
    line = f"group norms: {len(wide)} arrays squeezed" if wide else ""
    return arrays | wide, line


def _drop_numbers(arrays: Arrays) -> tuple[Arrays, str]:
    """Removes the running numbers that some BiT files give their convolutions."""
    renamed = {
        _NUMBERED_CONVOLUTION.sub("/standardized_conv2d/", name): array
        for name, array in arrays.items()
    }
    changed = renamed.keys() != arrays.keys()
    return renamed, "convolutions: numbers left out of their names" if changed else ""


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number
