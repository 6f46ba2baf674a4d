"""Draws what goes into a model, and what one makes of masked patches.

python -m tools.visualize --what=data --config=experiments/quickstart.py:pretrain \
    --to=figures
python -m tools.visualize --what=masked_patches --checkpoint=runs/masked --to=figures
"""

import pathlib

from absl import flags

from tools import command
from vit_tf import config

_CONFIG = command.define_config()
_WHAT = flags.DEFINE_enum(
    "what",
    "data",
    ["data", "masked_patches"],
    "data: contact sheets of the training and of the evaluation stream. masked_patches: "
    "images, their corrupted patches, what a run predicts of them, and what is right.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A finished run's folder, for --what=masked_patches."
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
    if _WHAT.value == "masked_patches":
        _draw_masked_patches()
    else:
        _draw_data()


def _draw_masked_patches() -> None:
    command.load_tensorflow()
    from tools import masked_figure

    path = masked_figure.draw(
        _CHECKPOINT.value, _TO.value, number=_NUMBER.value, data_dir=_DATA_DIR.value
    )
    print(path)


def _draw_data() -> None:
    """A training batch as augmented, and an evaluation batch."""
    cfg = _CONFIG()
    command.load_tensorflow()
    from tools import figures
    from vit_tf import step
    from vit_tf.data import mixture

    step.share(cfg, replicas=1)  # refuses what training refuses
    sources = mixture.open_all(cfg.data.name, data_dir=_DATA_DIR.value)
    sheets = {
        f"training batch of step {_STEP.value}": _training(cfg, sources),
        "evaluation batch": _evaluation(cfg, sources.sources[0]),
    }
    for title, (pictures, captions) in sheets.items():
        path = pathlib.Path(_TO.value) / f"{title.split()[0]}.png"
        size = cfg.data.image_size
        figures.contact_sheet(
            pictures,
            captions,
            path,
            title=f"{sources}: {title}, {size} x {size} pixels",
        )
        print(path)


def _training(cfg, sources):
    """Pixels in [0, 1] and class names of what the model is shown at a step."""
    import tensorflow as tf

    from vit_tf.data import images, mixing, pipeline

    stream = pipeline.train_stream(
        sources, cfg.data, seed=cfg.train.seed, start_step=_STEP.value
    )
    (batch,) = stream.take(1)
    pixels, names = images.to_model_range(batch["image"]), _names(sources, batch)
    if mixing.is_on(cfg.data):
        targets = batch["label"]
        if not sources.sources[0].multi_label:
            targets = tf.one_hot(targets, sources.sources[0].num_classes)
        box = batch.get(mixing.BOX)
        pixels, targets = mixing.mix(pixels, targets, batch[mixing.WEIGHT], box)
        names = [_mixed_name(sources, weights) for weights in targets.numpy()]
    return (pixels.numpy()[: _NUMBER.value] + 1) / 2, names


def _mixed_name(sources, weights):
    """The two classes of a mixed image with their shares."""
    found = [i for i in (-weights).argsort()[:2] if weights[i] > 0]
    if len(found) == 1:
        return sources.sources[0].class_names[found[0]]
    classes = sources.sources[0].class_names
    return "+".join(f"{100 * weights[i]:.0f}%{classes[i][:5]}" for i in found)


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
    from vit_tf.data import mixture

    first = mixture.of(source).sources[0]
    names = first.class_names
    if first.multi_label:
        return [
            "+".join(names[i] for i in row.nonzero()[0])
            for row in batch["label"].numpy()
        ]
    return [names[label] for label in batch["label"].numpy()]


if __name__ == "__main__":
    command.run(main)
