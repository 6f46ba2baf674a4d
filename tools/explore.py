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

from absl import flags

from tools import command
from tools.flags import inspection_flags
from vit_tf import config

_TO = flags.DEFINE_string("to", "explorer", "Folder for index.html.")
_MAX_IMAGES = flags.DEFINE_integer(
    "max_images",
    8,
    "Images of --images on the page, drawn by chance, always the same.",
    lower_bound=1,
)
_MAX_MEGABYTES = flags.DEFINE_float(
    "max_megabytes",
    60.0,
    "Images that would make the page larger are left out.",
    lower_bound=0.01,
)
_BLOCKS = flags.DEFINE_list(
    "blocks", [], "Layers whose attention is kept, from 0. Default: all."
)
_SERVE = flags.DEFINE_bool("serve", False, "Shows it on this machine until Ctrl-C.")
_PORT = flags.DEFINE_integer("port", 8000, "For --serve; 0: any that is free.")


def main() -> None:
    inspection_flags.check()
    if inspection_flags.IMAGES.value is None:
        raise config.Refused(
            "--images is missing: name an image, a folder of images or a data set"
        )
    if not all(text.isdecimal() for text in _BLOCKS.value):
        raise config.Refused(
            f"--blocks={','.join(_BLOCKS.value)}: need numbers from 0, with commas "
            "between"
        )
    command.load_tensorflow()
    import tensorflow as tf

    from vit_tf.inspection.explorer import explorer_page
    from vit_tf.runtime import filesystem

    seen = inspection_flags.open_subject(max_images=_MAX_IMAGES.value)
    with filesystem.refusing(_TO.value):
        tf.io.gfile.makedirs(_TO.value)
    written = explorer_page.write(
        seen,
        _TO.value,
        max_megabytes=_MAX_MEGABYTES.value,
        blocks=[int(text) for text in _BLOCKS.value] or None,
    )
    print(f"{written.path}: {written.images} images, {written.megabytes:.1f} MB")
    if written.left_out:
        print(
            f"{written.left_out} images left out: the page would pass --max_megabytes="
            f"{_MAX_MEGABYTES.value:g}"
        )
    if _SERVE.value:
        _serve()


def _serve() -> None:
    """Serves the folder to this machine alone."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=_TO.value
    )
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", _PORT.value), handler)
    except OSError as error:
        raise config.Refused(
            f"--port={_PORT.value}: {error.strerror}; choose another, or 0"
        ) from None
    print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    command.run(main)
