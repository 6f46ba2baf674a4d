"""Which files of a folder are images that a model can be shown, by their names.

Without TensorFlow, which a client of a server does not need.
"""

# What images.decode and headers.pixels know.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def is_image(name: str) -> bool:
    """Returns whether a file of this name, without its folder,
    is an image and not hidden.
    """
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
