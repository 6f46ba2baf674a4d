"""Weights from one place and layout to another, checked on the way where asked."""

from vit_tf import errors
from vit_tf.models import build, npz_identification, npz_layouts, npz_weights
from vit_tf.runs import stored_weights

_HEADS = ("head/", "pre_logits/", "resnet/head/")


def convert(
    source: str,
    target: str,
    *,
    layout: str = npz_layouts.Layout.RELEASED,
    keep_head: bool = True,
    variant: str | None = None,
    image_size: int | None = None,
) -> list[str]:
    """Reads weights, changes what is asked, writes them.

    Args:
        source: a finished run's folder or an .npz of any layout (`layouts.to_ours`);
            local, or any path of tf.io.gfile.
        target: the .npz to write, likewise.
        layout: of the target, a `layouts.Layout`.
        keep_head: False leaves out the layers after pooling.
        variant: a name of `build.names()` that the weights must fit.
        image_size: position embeddings are resized to it; needs `variant`.

    Returns:
        Lines that say what was read, changed and written.

    Raises:
        errors.UserError: no such file, damaged, or not of this variant.
    """
    path = stored_weights.weights_file(source)
    with stored_weights.local_copy(path) as file:
        arrays, lines = npz_weights.read_npz(file)
    number = sum(array.size for array in arrays.values())
    lines = [f"{path}: {len(arrays)} arrays, {number:,} numbers", *lines]
    if not keep_head:
        dropped = [name for name in arrays if name.startswith(_HEADS)]
        arrays = {n: a for n, a in arrays.items() if n not in dropped}
        lines.append(f"head: {len(dropped)} arrays dropped")
    if variant is not None:
        arrays, changes = _through_model(arrays, path, variant, image_size)
        lines += changes
    layout = npz_layouts.Layout(layout)
    if layout is npz_layouts.Layout.BIG_VISION and any(
        name.startswith("resnet/") for name in arrays
    ):
        raise errors.UserError(
            "--layout=big_vision: that code reads ResNets in the released layout; leave "
            "the flag out"
        )
    written = npz_layouts.from_ours(arrays, layout)
    stored_weights.write_weights(target, written)
    return [*lines, f"{target}: {len(written)} arrays written, layout {layout}"]


def _through_model(arrays, path, variant, image_size):
    """Returns the arrays as a model of this variant takes them."""
    model = npz_identification.recognise(arrays, name=path, variant=variant)
    size = image_size or npz_identification.image_size(arrays, model)
    network = build.build(
        model, num_classes=npz_identification.num_classes(arrays), image_size=size
    )
    changes = npz_weights.assign(network, arrays, name=path)
    return npz_weights.released(network), [
        f"fits {variant} at {size} pixels",
        *changes[1:],
    ]
