"""Writes a page to explore a model's attention with: no network, no server needed.

python -m tools.explore --checkpoint=runs/photos --images=photos --to=explorer
python -m tools.explore --checkpoint=ViT-L_16.npz --images=photos --max_images=3 \
    --blocks=0,5,11,17,23 --to=explorer --serve

Pick an image, point at a patch: its attention in every layer and head, the rollout, the
position similarity and the prediction. ViT-B/16 at 224 pixels takes at most 8 MB an image.
"""

import contextlib
import functools
import http.server
import os

from absl import flags

from tools import command
from tools.flags import inspection_flags, number_flags, path_flags
from vit_tf import errors

_STORED = inspection_flags.InspectionFlags()
_TO = path_flags.define_path("to", "explorer", "Folder for index.html.")
_MAX_IMAGES = number_flags.define_integer(
    "max_images", 8, "Images of --images on the page, drawn by chance, always the same."
)
_MAX_MEGABYTES = number_flags.define_float(
    "max_megabytes",
    60.0,
    "Images that would make the page larger are left out.",
    lower=0.01,
)
_BLOCKS = number_flags.define_integers(
    "blocks", None, "Layers whose attention is kept, from 0. Default: all.", lower=0
)
_SERVE = flags.DEFINE_bool("serve", False, "Shows it on this machine until Ctrl-C.")
_PORT = number_flags.define_integer(
    "port", 8000, "For --serve; 0: any that is free.", lower=0, upper=65_535
)


def main() -> None:
    _STORED.check()
    if _STORED.images is None:
        raise errors.UserError(
            "--images is missing: name an image, a folder of images or a data set"
        )
    path_flags.check_folder(_TO)
    command.load_tensorflow()
    import tensorflow as tf

    from vit_tf.inspection.explorer import explorer_page
    from vit_tf.runtime import filesystem

    seen = _STORED.open(max_images=_MAX_IMAGES.value)
    with filesystem.refusing(_TO.value):
        tf.io.gfile.makedirs(_TO.value)
    written = explorer_page.write(
        seen,
        _TO.value,
        max_megabytes=_MAX_MEGABYTES.value,
        blocks=_BLOCKS.value,
    )
    print(f"{written.path}: {written.images} images, {written.megabytes:.1f} MB")
    if written.left_out:
        print(
            f"{written.left_out} images left out: the page would pass --max_megabytes="
            f"{_MAX_MEGABYTES.value:g}"
        )
    if _SERVE.value:
        _serve()
    else:
        print(f"open {os.path.abspath(written.path)} in a browser")


def _serve() -> None:
    """Serves the folder to this machine alone."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=_TO.value
    )
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", _PORT.value), handler)
    except OSError as error:
        raise errors.UserError(
            f"--port={_PORT.value}: {error.strerror}; choose another, or 0"
        ) from None
    print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    command.run(main)
