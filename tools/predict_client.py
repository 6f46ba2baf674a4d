"""Asks a TensorFlow Serving about images, and writes a table of its answers.

python -m tools.predict_client --server=localhost:8500 --images=photos --to=photos.csv
python -m tools.predict_client --server=localhost:8501 --protocol=rest \
    --images='scans/*.png' --images=one.jpg --to=scans.jsonl --label=canary

The server runs what tools.export has written; docs/serving.md says how. Cut off and
started again it goes on with the images that have no row yet.
"""

import functools
import threading
from collections.abc import Sequence

from absl import flags

from tools import command
from tools.flags import data_flags, model_flags, number_flags, path_flags
from vit_tf import errors
from vit_tf.serving import (
    batch_prediction,
    named_images,
    predictions,
    predictions_table,
)
from vit_tf.serving.client import retrying, serving_channel

_SERVER = flags.DEFINE_string(
    "server", None, "HOST:PORT, usually 8500 for gRPC and 8501 for REST.", required=True
)
_PROTOCOL = flags.DEFINE_enum("protocol", "grpc", ["grpc", "rest"], "How to ask.")
_IMAGES = data_flags.define_images(repeated=True)
_TO = path_flags.define_path(
    "to", None, "The table: FILE.csv or FILE.jsonl.", required=True
)
_MODEL = flags.DEFINE_string("model", "vit", "The name under which it is served.")
_VERSION = number_flags.define_integer(
    "version", None, "Of the model. Default: the server's newest."
)
_LABEL = flags.DEFINE_string("label", None, "Of a version, such as stable, instead.")
_SIGNATURE = flags.DEFINE_string(
    "signature", "serving_default", "One that takes image_bytes."
)
_TOP = number_flags.define_integer(
    "top", None, "Classes of a row. Default: as many as the server says."
)
_BATCH_SIZE = model_flags.define_batch_size(
    16, "Images of a request; no more than the server takes."
)
_IN_FLIGHT = number_flags.define_integer(
    "in_flight", 4, "Requests at a time.", upper=64
)
_DEADLINE = number_flags.define_float(
    "deadline", 60.0, "Seconds for a request with all its tries.", lower=0.1
)
_TLS = flags.DEFINE_bool("tls", False, "Encrypt, as by a proxy before the server.")

_FIRST_SECONDS = 10.0  # for the first answer: an unreachable server is said soon
_USUAL_TOP = 5


def main() -> None:
    predictions_table.check_name(_TO.value)
    path_flags.check_file(_TO)
    address = _address()
    paths = named_images.find(_IMAGES.value)
    channel = _open(address)
    try:
        patience = retrying.Patience(_DEADLINE.value)
        top = _top(address, channel)
        with predictions_table.Table(_TO.value, top) as table:
            ask = functools.partial(_ask, channel, address, patience, top)
            count = batch_prediction.fill(
                table,
                paths,
                ask,
                batch_size=_BATCH_SIZE.value,
                in_flight=_IN_FLIGHT.value,
            )
    finally:
        channel.close()
    print(count.line(_TO.value))


def _address() -> serving_channel.Address:
    host, _, port = _SERVER.value.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise errors.UserError(
            f"--server={_SERVER.value}: need HOST:PORT, such as localhost:8500"
        )
    if _VERSION.value is not None and _LABEL.value is not None:
        raise errors.UserError("--version and --label name one version each: give one")
    return serving_channel.Address(
        server=_SERVER.value,
        model=_MODEL.value,
        version=_VERSION.value,
        label=_LABEL.value,
        signature=_SIGNATURE.value,
        tls=_TLS.value,
    )


def _open(address: serving_channel.Address) -> serving_channel.Channel:
    if _PROTOCOL.value == "rest":
        return serving_channel.Rest(address)
    command.load_tensorflow()  # whose messages the protocol is made of
    return serving_channel.Grpc(address)


def _top(address: serving_channel.Address, channel: serving_channel.Channel) -> int:
    """Classes of a row; asks the server what it has, so that it must be there."""
    patience = retrying.Patience(min(_FIRST_SECONDS, _DEADLINE.value))
    try:
        found = retrying.call(channel.signatures, patience)
    except retrying.GaveUp as failure:
        raise errors.UserError(
            f"--server={address.server}: {failure}; is it running, and is this its "
            f"port for {_PROTOCOL.value}?"
        ) from failure
    given = serving_channel.check(address, found)
    if given is not None and (_TOP.value or 0) > given:
        raise errors.UserError(
            f"--top={_TOP.value}: {address.name} at {address.server} tells {given}; "
            "name at most that many"
        )
    return _TOP.value or given or _USUAL_TOP


def _ask(
    channel: serving_channel.Channel,
    address: serving_channel.Address,
    patience: retrying.Patience,
    top: int,
    encoded: Sequence[bytes],
    stop: threading.Event,
) -> list[predictions.Prediction]:
    """The answers to a batch, however often it takes to get them."""
    try:
        said = retrying.call(
            functools.partial(channel.predict, encoded), patience, stop=stop
        )
    except retrying.GaveUp as failure:
        raise errors.UserError(
            f"{address.server}, model {address.name}: {failure}; the rows so far are "
            f"in {_TO.value}, the same command goes on; or raise --deadline"
        ) from failure
    return [predictions.first(one, top) for one in said]


if __name__ == "__main__":
    command.run(main)
