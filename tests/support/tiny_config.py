"""The config of a run that takes seconds, the twin of the real ones."""

from tools import overrides
from vit_tf import config

OVERRIDES = {
    "model.variant": "ViT-mu/8",
    "data.name": "digits",
    "data.image_size": "16",
    "data.batch_size": "16",
    "data.flip": "false",
    "optim.lr": "3e-3",
    "optim.warmup_steps": "2",
    "optim.weight_decay": "0.1",
    "optim.clip_norm": "0.5",
    "train.length": "12",
    "train.log_every_steps": "1",
    "train.checkpoint_every_steps": "4",
    "evals.splits": "test",
}


def make(**changes: object) -> config.Config:
    """The tiny config; `optim__lr=1` and the like change it."""
    cfg = config.Config()
    changed = {name.replace("__", "."): str(value) for name, value in changes.items()}
    for path, text in (OVERRIDES | changed).items():
        overrides.override(cfg, path, text)
    return cfg


def get_config(argument: str | None = None) -> config.Config:
    """Lets `--config=tests/support/tiny_config.py` train it."""
    del argument
    return make()
