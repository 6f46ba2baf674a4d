"""Draws what goes into a model, and what a trained model has learned.

python -m tools.visualize --what=data --config=experiments/quickstart.py:pretrain \
    --to=figures
python -m tools.visualize --checkpoint=ViT-L_16.npz --what=all --images=photos \
    --to=figures
python -m tools.visualize --checkpoint=runs/photos --what=distance,rollout \
    --images=photos --max_images=128 --to=figures
python -m tools.visualize --what=masked_patches --checkpoint=runs/masked --to=figures

Each figure of a model is written as .png, as .svg and, its numbers, as .npz.
"""

import pathlib

from absl import flags

from tools import command
from tools.flags import inspection_flags, number_flags, path_flags
from vit_tf import config, errors
from vit_tf.data import evaluation_stream

# Figures of a model, in the order of `vit_tf.inspection.figures.NAMES`.
MODEL_FIGURES = (
    "filters",
    "position",
    "distance",
    "entropy",
    "rollout",
    "layers",
    "probes",
)

_CONFIG = command.define_config()
_WHAT = flags.DEFINE_list(
    "what",
    ["data"],
    "data: contact sheets of the training and of the evaluation stream. Of a model, "
    "some of: filters, the principal components of its RGB filters; position, "
    "similarity of position embeddings; distance, mean attention distance of each "
    "head; entropy of attention; rollout, attention from output to input; layers, how "
    "alike they are; probes, what a linear classifier reads out of each; or all of "
    "these. masked_patches: images, their corrupted patches, what a run predicts of "
    "them, and what is right.",
)
_TO = path_flags.define_path("to", "figures", "Folder for the pictures.")
_NUMBER = number_flags.define_integer(
    "number", 32, "Images on each sheet, at most a batch.", upper=4_096
)
_STEP = number_flags.define_integer(
    "step", 0, "Which training step's batch to draw.", lower=0
)
_MAX_IMAGES = number_flags.define_integer(
    "max_images",
    128,
    "Images of --images that figures are computed from, drawn by chance, always the "
    "same.",
)
_STORED = inspection_flags.InspectionFlags()


def main() -> None:
    draws = {
        "data": _draw_data,
        "masked_patches": _draw_masked_patches,
    } | dict.fromkeys(("all", *MODEL_FIGURES), _draw_model)
    for name in _WHAT.value:
        if name not in draws:
            raise errors.UserError(
                f"--what={name}: no such figure{errors.nearest(name, draws)}"
            )
    if flags.FLAGS["config"].present and "data" not in _WHAT.value:
        raise errors.UserError("--config: is for --what=data only; leave it out")
    path_flags.check_folder(_TO)
    for drawing in dict.fromkeys(draws[name] for name in _WHAT.value):
        drawing()


def _draw_model() -> None:
    """Draws what a model has learned; says which figures it cannot have."""
    _STORED.check()
    command.load_tensorflow()
    from vit_tf.inspection import figures

    asked = [name for name in _WHAT.value if name in ("all", *MODEL_FIGURES)]
    every = "all" in asked
    seen = _STORED.open(max_images=_MAX_IMAGES.value, shown=_NUMBER.value)
    for figure in figures.draw_all(seen, MODEL_FIGURES if every else asked):
        if isinstance(figure, figures.Figure):
            print(*figure.write(_TO.value), sep="\n")
        elif every:
            print(f"left out: {figure}")
        else:
            raise figure


def _draw_masked_patches() -> None:
    """Draws what a run of masked patches predicts."""
    _STORED.check()
    if set(_WHAT.value) == {"masked_patches"}:
        _STORED.check_alone("--what=masked_patches draws images that the run evaluates")
    command.load_tensorflow()
    from vit_tf.inspection import masked_patch_figures
    from vit_tf.runtime import devices

    figure = masked_patch_figures.figure(
        _STORED.checkpoint,
        number=_NUMBER.value,
        machine=devices.start(config.Train()),
        data_dir=_STORED.data_dir,
    )
    print(*figure.write(_TO.value), sep="\n")


def _draw_data() -> None:
    """Draws a training batch as augmented, and an evaluation batch."""
    cfg = _CONFIG()
    command.load_tensorflow()
    from vit_tf.data import mixture
    from vit_tf.inspection import run_plots
    from vit_tf.training import step

    step.share(
        cfg.data, accumulation=cfg.train.accumulation, replicas=1
    )  # refuses what training refuses
    sources = mixture.open_all(cfg.data.name, data_dir=_STORED.data_dir)
    sheets = {
        f"training batch of step {_STEP.value}": _training(cfg, sources),
        "evaluation batch": _evaluation(cfg, sources.sources[0]),
    }
    for title, (pictures, captions) in sheets.items():
        path = pathlib.Path(_TO.value) / f"{title.split()[0]}.png"
        size = cfg.data.image_size
        run_plots.contact_sheet(
            pictures,
            captions,
            path,
            title=f"{sources}: {title}, {size} x {size} pixels",
        )
        print(path)


def _training(cfg, sources):
    """Pixels in [0, 1] and class names of what the model is shown at a step."""
    import tensorflow as tf

    from vit_tf.data import images, mixup_cutmix, pipeline

    stream = pipeline.train_stream(
        sources, cfg.data, seed=cfg.train.seed, start_step=_STEP.value
    )
    (batch,) = stream.take(1)
    pixels, names = images.to_model_range(batch["image"]), _names(sources, batch)
    if mixup_cutmix.is_on(cfg.data):
        targets = batch["label"]
        if not sources.sources[0].multi_label:
            targets = tf.one_hot(targets, sources.sources[0].num_classes)
        box = batch.get(mixup_cutmix.BOX)
        pixels, targets = mixup_cutmix.mix(
            pixels, targets, batch[mixup_cutmix.WEIGHT], box
        )
        names = [_mixed_name(sources, weights) for weights in targets.numpy()]
    return (pixels.numpy()[: _NUMBER.value] + 1) / 2, names


def _mixed_name(sources, weights):
    """Names the two classes of a mixed image with their shares."""
    mixed = [i for i in (-weights).argsort()[:2] if weights[i] > 0]
    if len(mixed) == 1:
        return sources.sources[0].class_names[mixed[0]]
    classes = sources.sources[0].class_names
    return "+".join(f"{100 * weights[i]:.0f}%{classes[i][:5]}" for i in mixed)


def _evaluation(cfg, source):
    """Draws the same of the first split that the config evaluates."""

    if not cfg.evals.splits:
        raise errors.UserError("evals.splits is empty: name a split to draw from")
    split = cfg.evals.splits[0]
    number = min(_NUMBER.value, source.num_examples(split))
    stream = evaluation_stream.stream(source, cfg.data.view, split, batch_size=number)
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
