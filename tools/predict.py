"""Predicts the classes of images with a run, an .npz or an export, without a server.

python -m tools.predict --checkpoint=runs/photos --images=new_photos --to=new.csv
python -m tools.predict --checkpoint=ViT-B_16.npz --images='*.jpg' --to=found.jsonl --top=3
python -m tools.predict --checkpoint=exports/vit --images=new_photos --to=new.csv

The table is that of tools.predict_client. Images are shown as evaluation shows them.
Cut off and started again it goes on with the images that have no row yet; a table
that another checkpoint or other settings made is refused.
"""

import dataclasses

from absl import flags

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
_EXIF = flags.DEFINE_bool(
    "exif", False, "Turn images upright as their EXIF data say; training does not."
)

_IN_FLIGHT = 2  # one batch is read and decoded while the other is computed


def main() -> None:
    predictions_table.check_name(_TO.value)
    path_flags.check_file(_TO)
    paths = named_images.find(_IMAGES.value)
    command.load_tensorflow()
    from vit_tf.data.preparation import image_facts
    from vit_tf.runtime import devices
    from vit_tf.serving import predictor

    devices.start(config.Train())
    ask, top = predictor.open_stored(
        _CHECKPOINT.value,
        top=_TOP.value,
        **_VIEW(),
    )
    turned: list[int] = []  # of each batch; batches come from several threads

    def ask_upright(encoded, _):
        turned.append(sum(map(image_facts.is_turned, encoded)))
        return ask(
            [image_facts.upright(e) for e in encoded] if _EXIF.value else encoded
        )

    made_by = ask.identity
    if _EXIF.value:
        settings = {**made_by.settings, "exif": True}
        made_by = dataclasses.replace(made_by, settings=settings)
    with predictions_table.Table(
        _TO.value, top, made_by, overwrite=_OVERWRITE.value
    ) as table:
        count = batch_prediction.fill(
            table,
            paths,
            ask_upright,
            batch_size=_BATCH_SIZE.value,
            in_flight=_IN_FLIGHT,
        )
    print(count.line(_TO.value))
    if sum(turned):
        how = "turned upright" if _EXIF.value else "shown as stored; see --exif"
        print(f"{sum(turned):,} images carry a rotation (EXIF): {how}")


if __name__ == "__main__":
    command.run(main)
