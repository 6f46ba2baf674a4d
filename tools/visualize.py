"""Draws what goes into a model: a training batch as augmented, an evaluation batch.

python -m tools.visualize --what=data --config=experiments/quickstart.py:pretrain \
    --to=figures
"""

import pathlib

from absl import flags

from tools import command
from vit_tf import config

_CONFIG = command.define_config()
_WHAT = flags.DEFINE_enum(
    "what",
    "data",
    ["data"],
    "data: contact sheets of the training and of the evaluation stream.",
)
_TO = flags.DEFINE_string("to", "figures", "Folder for the pictures.")
_NUMBER = flags.DEFINE_integer(
    "number", 32, "Images on each sheet, at most a batch.", lower_bound=1
)
_STEP = flags.DEFINE_integer(
    "step", 0, "Which training step's batch to draw.", lower_bound=0
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where prepared data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
)


def main() -> None:
    cfg = _CONFIG()
    command.load_tensorflow()
    from tools import figures
    from vit_tf.data import datasets

    source = datasets.open_source(cfg.data.name, data_dir=_DATA_DIR.value)
    sheets = {
        f"training batch of step {_STEP.value}": _training(cfg, source),
        "evaluation batch": _evaluation(cfg, source),
    }
    for title, (pictures, captions) in sheets.items():
        path = pathlib.Path(_TO.value) / f"{title.split()[0]}.png"
        size = cfg.data.image_size
        figures.contact_sheet(
            pictures,
            captions,
            path,
            title=f"{source.name}: {title}, {size} x {size} pixels",
        )
        print(path)


def _training(cfg, source):
    """Pixels in [0, 1] and class names of what the model is shown at a step."""
    from vit_tf.data import pipeline

    stream = pipeline.train_stream(
        source, cfg.data, seed=cfg.train.seed, start_step=_STEP.value
    )
    (batch,) = stream.take(1)
    pictures = batch["image"].numpy()[: _NUMBER.value] / 255
    return pictures, _names(source, batch)


def _evaluation(cfg, source):
    """The same of the first split that the config evaluates."""
    from vit_tf.data import pipeline

    if not cfg.evals.splits:
        raise config.Refused("evals.splits is empty: name a split to draw from")
    split = cfg.evals.splits[0]
    number = min(_NUMBER.value, source.num_examples(split))
    stream = pipeline.eval_stream(source, cfg.data, split, batch_size=number)
    (batch,) = stream.take(1)
    return (batch["image"].numpy() + 1) / 2, _names(source, batch)


def _names(source, batch):
    return [source.class_names[label] for label in batch["label"].numpy()]


if __name__ == "__main__":
    command.run(main)
