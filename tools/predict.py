"""Predicts the classes of images with a run, an .npz or an export, without a server.

python -m tools.predict --checkpoint=runs/photos --images=new_photos --to=new.csv
python -m tools.predict --checkpoint=ViT-B_16.npz --images='*.jpg' --to=found.jsonl --top=3
python -m tools.predict --checkpoint=exports/vit --images=new_photos --to=new.csv

The table is that of tools.predict_client. Images are shown as evaluation shows them.
Cut off and started again it goes on with the images that have no row yet.
"""

from absl import flags

from tools import command
from vit_tf import config
from vit_tf.serving import batch_prediction, named_images, predictions_table

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A finished run's folder, an .npz of any layout, or an export's folder.",
    required=True,
)
_IMAGES = flags.DEFINE_multi_string(
    "images", None, "A folder, a file or a pattern; may be repeated.", required=True
)
_TO = flags.DEFINE_string(
    "to", None, "The table: FILE.csv or FILE.jsonl.", required=True
)
_TOP = flags.DEFINE_integer(
    "top",
    None,
    "Classes of a row. Default: 5, or all where they are fewer.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images at a time.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Pixels; position embeddings are resized. Default: as trained."
)
_EVAL_CROP = flags.DEFINE_enum(
    "eval_crop",
    None,
    [str(crop) for crop in config.EvalCrop],
    "The view of an image. Default: the run's own; of an .npz resize.",
)
_VARIANT = flags.DEFINE_string(
    "variant", None, "The model of an .npz whose arrays do not tell it."
)

_IN_FLIGHT = 2  # one batch is read and decoded while the other is computed


def main() -> None:
    predictions_table.check_name(_TO.value)
    paths = named_images.find(_IMAGES.value)
    command.load_tensorflow()
    from vit_tf.runtime import devices
    from vit_tf.serving import predictor

    devices.start(config.Train())
    ask, top = predictor.open_stored(
        _CHECKPOINT.value,
        top=_TOP.value,
        image_size=_IMAGE_SIZE.value,
        eval_crop=_EVAL_CROP.value and config.EvalCrop(_EVAL_CROP.value),
        variant=_VARIANT.value,
    )
    with predictions_table.Table(_TO.value, top) as table:
        count = batch_prediction.fill(
            table,
            paths,
            lambda encoded, _: ask(encoded),
            batch_size=_BATCH_SIZE.value,
            in_flight=_IN_FLIGHT,
        )
    print(count.line(_TO.value))


if __name__ == "__main__":
    command.run(main)
