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
from vit_tf.serving.client import channel, grpc_channel, rest_channel, retrying

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
_OVERWRITE = path_flags.define_overwrite("A table")
_TLS = flags.DEFINE_bool("tls", False, "Encrypt, as by a proxy before the server.")

_FIRST_SECONDS = 10.0  # for the first answer: an unreachable server is said soon
_USUAL_TOP = 5


def main() -> None:
    predictions_table.check_name(_TO.value)
    path_flags.check_file(_TO)
    address = _address()
    paths = named_images.find(_IMAGES.value)
    server = _open(address)
    try:
        metadata = _metadata(address, server)
        top = _top(address, metadata)
        made_by = channel.identify(address, metadata, top)
        with predictions_table.Table(
            _TO.value, top, made_by, overwrite=_OVERWRITE.value
        ) as table:
            patience = retrying.Patience(_DEADLINE.value)
            ask = functools.partial(_ask, server, address, patience, top)
            count = batch_prediction.fill(
                table,
                paths,
                ask,
                batch_size=_BATCH_SIZE.value,
                in_flight=_IN_FLIGHT.value,
            )
    finally:
        server.close()
    print(count.line(_TO.value))


def _address() -> channel.Address:
    host, _, port = _SERVER.value.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise errors.UserError(
            f"--server={_SERVER.value}: need HOST:PORT, such as localhost:8500"
        )
    if _VERSION.value is not None and _LABEL.value is not None:
        raise errors.UserError("--version and --label name one version each: give one")
    return channel.Address(
        server=_SERVER.value,
        model=_MODEL.value,
        version=_VERSION.value,
        label=_LABEL.value,
        signature=_SIGNATURE.value,
        tls=_TLS.value,
    )


def _open(address: channel.Address) -> channel.Channel:
    if _PROTOCOL.value == "rest":
        return rest_channel.RestChannel(address)
    command.load_tensorflow()  # whose messages the protocol is made of
    return grpc_channel.GrpcChannel(address)


def _metadata(address: channel.Address, server: channel.Channel) -> channel.Metadata:
    """Asks the server what it has, so that it must be there."""
    patience = retrying.Patience(min(_FIRST_SECONDS, _DEADLINE.value))
    try:
        return retrying.call(server.metadata, patience)
    except retrying.GaveUp as failure:
        raise errors.UserError(
            f"--server={address.server}: {failure}; is it running, and is this its "
            f"port for {_PROTOCOL.value}?"
        ) from failure


def _top(address: channel.Address, metadata: channel.Metadata) -> int:
    """Chooses the classes of a row."""
    given = channel.check(address, metadata.signatures)
    if given is not None and (_TOP.value or 0) > given:
        raise errors.UserError(
            f"--top={_TOP.value}: {address.name} at {address.server} gives {given}; "
            "name at most that many"
        )
    return _TOP.value or given or _USUAL_TOP


def _ask(
    server: channel.Channel,
    address: channel.Address,
    patience: retrying.Patience,
    top: int,
    encoded: Sequence[bytes],
    stop: threading.Event,
) -> list[predictions.Prediction]:
    """Asks for the predictions of a batch, however often it takes to get them."""
    try:
        answers = retrying.call(
            functools.partial(server.predict, encoded), patience, stop=stop
        )
    except retrying.GaveUp as failure:
        raise errors.UserError(
            f"{address.server}, model {address.name}: {failure}; the rows so far are "
            f"in {_TO.value}, the same command goes on; or raise --deadline"
        ) from failure
    return [predictions.first(one, top) for one in answers]


if __name__ == "__main__":
    command.run(main)
