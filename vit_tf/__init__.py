"""Vision Transformers (arXiv 2010.11929) in TensorFlow and Keras: the front door.

    import vit_tf

    model = vit_tf.load("ViT-B_16.npz", image_size=384)
    model.predict(["cat.jpg"])
    net = vit_tf.create("ViT-B/16", num_classes=10)  # a keras.Model

Names are loaded when they are first used: importing this package imports neither
TensorFlow nor Keras, prints nothing and changes no state.
"""

import importlib
import typing

__version__ = "0.9.0"

if typing.TYPE_CHECKING:
    from vit_tf.api import Model, create, evaluate, list_models, load, train
    from vit_tf.config import Config
    from vit_tf.errors import UserError

# Where each name of the front door is defined.
_HOMES = {
    "Config": "vit_tf.config",
    "UserError": "vit_tf.errors",
    "Model": "vit_tf.api",
    "create": "vit_tf.api",
    "evaluate": "vit_tf.api",
    "list_models": "vit_tf.api",
    "load": "vit_tf.api",
    "train": "vit_tf.api",
}

__all__ = [
    "Config",
    "Model",
    "UserError",
    "__version__",
    "create",
    "evaluate",
    "list_models",
    "load",
    "train",
]


def __getattr__(name: str) -> typing.Any:
    """Imports a name of the front door when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_tf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the names of the front door, used or not."""
    return sorted({*globals(), *__all__})
