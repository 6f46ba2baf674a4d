"""Evaluates a finished run, or a released .npz, on any data set that is prepared.

python -m tools.evaluate --checkpoint=runs/photos --dataset=photos
python -m tools.evaluate --checkpoint=B_16-i1k-384.npz --image_size=384 \
    --dataset=imagenet2012,imagenet2012_real,imagenet_v2
python -m tools.evaluate --checkpoint=runs/i1k --dataset=objectnet --eval_crop=central_512
python -m tools.evaluate --checkpoint=ViT-B_16.npz --dataset=cifar100,dtd \
    --evaluators=fewshot --json=few.json
python -m tools.evaluate --checkpoint=runs/i1k --dataset=imagenet_v2 \
    --evaluators=resolution --resolutions=160,224,288,384

ReaL counts the images that have a label, and any of an image's labels as right;
ObjectNet is told among all 1000 classes of ImageNet.
"""

import contextlib
import json

from absl import flags

from tools import command
from tools.flags import (
    data_flags,
    device_flags,
    model_flags,
    number_flags,
    path_flags,
)
from vit_tf import config, errors, identity

_CHECKPOINT = model_flags.define_checkpoint(required=True)
_DATASET = flags.DEFINE_list(
    "dataset", None, "Data sets, with commas between.", required=True
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Of every data set. Default: the one that is reported, else test or validation; "
    "few-shot evaluation has its own.",
)
_EVALUATORS = flags.DEFINE_list(
    "evaluators",
    ["accuracy", "top5_accuracy", "nll", "ece"],
    "Of accuracy, top5_accuracy, class_accuracy, nll, ece, loss, fewshot, resolution.",
)
_VIEW = model_flags.ViewFlags()
_RESOLUTIONS = number_flags.define_integers(
    "resolutions",
    None,
    "Sizes at which evaluator 'resolution' measures the model.",
    upper=number_flags.MAX_PIXELS,
)
_BATCH_SIZE = model_flags.define_batch_size(
    256, "Over all devices; any gives the same numbers."
)
_SHOTS = number_flags.define_integers(
    "fewshot_shots", [1, 5, 10, 25], "Images of each class to learn from."
)
_SEEDS = number_flags.define_integer(
    "fewshot_seeds", 3, "Draws of these images, averaged.", upper=10_000
)
_L2 = number_flags.define_floats(
    "l2",
    [1024.0],
    "Weight of the ridge. Of several, each data set takes the one that is best on the "
    "others; a single set the one that best tells its own shots, each left out.",
)
_DATA_DIR = data_flags.define_data_dir()
_NUM_DEVICES = device_flags.define_num_devices()
_MEMORY = device_flags.define_memory()
_JSON = path_flags.define_path("json", None, "File to write all of it to.")
_OVERWRITE = path_flags.define_overwrite("A file of --json")

_WORST = 10  # classes that are shown


def main() -> None:
    for holder in (_DATASET, _EVALUATORS):
        if not all(text.strip() for text in holder.value) or not holder.value:
            raise errors.UserError(f"--{holder.name} is blank: name one or more")
    path_flags.check_file(_JSON)
    command.load_tensorflow()
    from vit_tf.evaluation import evaluate
    from vit_tf.runtime import devices, filesystem

    request = evaluate.Request(
        checkpoint=_CHECKPOINT.value,
        names=tuple(dict.fromkeys(_DATASET.value)),
        evaluators=tuple(_EVALUATORS.value),
        split=_SPLIT.value,
        resolutions=tuple(_RESOLUTIONS.value or ()),
        batch_size=_BATCH_SIZE.value,
        few_shot=config.FewShot(
            shots=tuple(_SHOTS.value), num_seeds=_SEEDS.value, l2=tuple(_L2.value)
        ),
        data_dir=_DATA_DIR.value,
        **_VIEW(),
    )
    machine = devices.start(
        config.Train(),
        num_devices=_NUM_DEVICES.value,
        memory=device_flags.memory_bytes(_MEMORY),
    )
    if _JSON.value is not None and not _OVERWRITE.value:
        _refuse_other(_JSON.value, evaluate.identify(request))
    report = evaluate.evaluate(request, machine)
    _show(report)
    if _JSON.value is not None:
        filesystem.write_whole(_JSON.value, json.dumps(report, indent=2) + "\n")
        print(f"\nwrote {_JSON.value}")


def _refuse_other(path: str, made_by: identity.Identity) -> None:
    """Refuses to replace the numbers of another model, other data or settings."""
    import tensorflow as tf

    from vit_tf.runtime import filesystem

    if not tf.io.gfile.exists(path) or not tf.io.gfile.stat(path).length:
        return
    before = None
    with contextlib.suppress(errors.UserError):  # as good as none
        content = filesystem.read_json(path, "name another file")
        before = identity.Identity.from_json(content.get("identity"))
    remedy = "name another file, or replace it with --overwrite"
    identity.refuse_other(f"--json={path}", before, made_by, remedy=remedy)


def _show(report: dict) -> None:
    print(
        f"{report['checkpoint']}: {report['model']['variant']} in {report['precision']} "
        f"on {report['device']}, view {report['eval_crop']}"
    )
    for note in report["notes"]:
        print(f"  {note}")
    rows = [
        (f"{m['dataset']}/{m['split']}", m["image_size"], m["name"], m)
        for m in report["metrics"]
        if not m["name"].endswith("shot")
    ]
    if rows:
        wide = max(len(row[0]) for row in rows)
        print(f"\n{'':<{wide}}  {'pixels':>6}  {'measure':<14} {'value':>8} {'n':>7}")
        for where, size, name, m in rows:
            print(
                f"{where:<{wide}}  {size:6}  {name:<14} {m['value']:8.4f} "
                f"{m['count']:7,}"
            )
    for name, classes in report["classes_of"].items():
        worst = sorted(classes, key=lambda c: c["accuracy"])[:_WORST]
        print(f"\n{name}: the worst {len(worst)} of {len(classes)} classes")
        for c in worst:
            print(f"  {c['accuracy']:.4f}  {c['name']} (n={c['count']:,})")
    if report["few_shot"]:
        _show_few_shot(report["few_shot"])


def _show_few_shot(scores: list[dict]) -> None:
    places = [f"{s['dataset']}/{s['split']}" for s in scores]
    wide = max(map(len, places))
    print(
        f"\nfew-shot accuracy, view {config.EvalCrop.SQUARE_CENTRAL}\n"
        f"{'':<{wide}}  {'shots':>5} {'mean':>7} {'std':>7} {'l2':>9} {'n':>7}  draws"
    )
    for where, s in zip(places, scores):
        draws = " ".join(f"{value:.4f}" for value in s["values"])
        print(
            f"{where:<{wide}}  {s['shots']:5} {s['mean']:7.4f} {s['std']:7.4f} "
            f"{s['l2']:9g} {s['count']:7,}  {draws}"
        )


if __name__ == "__main__":
    command.run(main)
