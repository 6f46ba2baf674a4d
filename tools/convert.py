"""Converts weights between a run's folder and the authors' .npz layouts.

python -m tools.convert --from=ViT-B_16.npz --to=vit_b16_bv.npz --layout=big_vision
python -m tools.convert --from=runs/photos --to=photos.npz
python -m tools.convert --from=ViT-B_16.npz --to=b16_384.npz --variant=ViT-B/16 \
    --image_size=384 --head=drop
"""

from absl import flags

from tools import command, next_steps
from tools.flags import model_flags, path_flags
from vit_tf import errors

_FROM = path_flags.define_path(
    "from", None, "A finished run's folder, or an .npz of any layout.", required=True
)
_TO = path_flags.define_path("to", None, "The .npz to write.", required=True)
_LAYOUT = flags.DEFINE_enum(
    "layout",
    "released",
    ["released", "big_vision"],
    "released: names of the paper's, AugReg's and BiT's files. big_vision: those that "
    "the authors' later code reads.",
)
_HEAD = flags.DEFINE_enum(
    "head", "keep", ["keep", "drop"], "drop: without the layers after pooling."
)
_VARIANT = model_flags.define_variant(
    "Checks that the weights fit this model, such as ViT-B/16."
)
_IMAGE_SIZE = model_flags.define_image_size(
    "Resizes the position embeddings to this many pixels; needs --variant."
)


def main() -> None:
    if _IMAGE_SIZE.value is not None and _VARIANT.value is None:
        raise errors.UserError(
            f"--image_size={_IMAGE_SIZE.value}: needs --variant=NAME, whose patches say "
            "how large the grid is"
        )
    path_flags.check_file(_TO)
    command.load_tensorflow()
    from vit_tf.runs import conversion

    lines = conversion.convert(
        _FROM.value,
        _TO.value,
        layout=_LAYOUT.value,
        keep_head=_HEAD.value == "keep",
        variant=_VARIANT.value,
        image_size=_IMAGE_SIZE.value,
    )
    for line in lines:
        print(line)
    layout = (
        f", which {_LAYOUT.value} code reads" if _LAYOUT.value != "released" else ""
    )
    print(f"wrote {_TO.value}{layout}")
    next_steps.show(
        next_steps.command_line(
            "transfer", start_from=_TO.value, dataset="NAME", workdir="DIR"
        ),
    )


if __name__ == "__main__":
    command.run(main)
