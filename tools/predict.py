"""Predicts the classes of images with a run, an .npz or an export, without a server.

python -m tools.predict --checkpoint=runs/photos --images=new_photos --to=new.csv
python -m tools.predict --checkpoint=ViT-B_16.npz --images='*.jpg' --to=found.jsonl --top=3
python -m tools.predict --checkpoint=exports/vit --images=new_photos --to=new.csv

The table is that of tools.predict_client. Images are shown as evaluation shows them.
Cut off and started again it goes on with the images that have no row yet; a table
that another checkpoint or other settings made is refused.
"""

from tools import command
from tools.flags import data_flags, model_flags, number_flags, path_flags
from vit_tf import config
from vit_tf.serving import batch_prediction, named_images, predictions_table

_CHECKPOINT = model_flags.define_checkpoint(
    "A finished run's folder, an .npz of any layout, or an export's folder.",
    required=True,
)
_IMAGES = data_flags.define_images(repeated=True)
_TO = path_flags.define_path(
    "to", None, "The table: FILE.csv or FILE.jsonl.", required=True
)
_TOP = number_flags.define_integer(
    "top", None, "Classes of a row. Default: 5, or all where they are fewer."
)
_BATCH_SIZE = model_flags.define_batch_size(32, "Images at a time.")
_OVERWRITE = path_flags.define_overwrite("A table")
_VIEW = model_flags.ViewFlags()

_IN_FLIGHT = 2  # one batch is read and decoded while the other is computed


def main() -> None:
    predictions_table.check_name(_TO.value)
    path_flags.check_file(_TO)
    paths = named_images.find(_IMAGES.value)
    command.load_tensorflow()
    from vit_tf.runtime import devices
    from vit_tf.serving import predictor

    devices.start(config.Train())
    ask, top = predictor.open_stored(
        _CHECKPOINT.value,
        top=_TOP.value,
        **_VIEW(),
    )
    with predictions_table.Table(
        _TO.value, top, ask.identity, overwrite=_OVERWRITE.value
    ) as table:
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
