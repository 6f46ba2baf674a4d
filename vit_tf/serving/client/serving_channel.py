"""A model on a TensorFlow Serving, asked by gRPC or REST.

Both say the same: which signatures there are, and the answers to a batch of encoded
images. Failures that may pass are `retrying.Passing`; what the user can mend is
`config.Refused`. Outputs are not filtered: a ModelServer batches only requests for all
outputs of a signature (tensorflow_serving/batching/batching_session.cc, 2.20.0).
"""

import base64
import dataclasses
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vit_tf import config
from vit_tf.serving import predictions
from vit_tf.serving.client import retrying

INPUT, OUTPUTS = "image_bytes", ("classes", "scores")
ERRORS = "error"  # an output that an export need not have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A model on a server.

    Attributes:
        server: HOST:PORT.
        model: its name.
        version: a number; None: what the server takes, its newest.
        label: of a version, such as 'stable', instead.
        signature: which of its signatures.
        tls: whether the connection is encrypted, by the system's certificates.
    """

    server: str
    model: str
    version: int | None = None
    label: str | None = None
    signature: str = "serving_default"
    tls: bool = False

    @property
    def name(self) -> str:
        """The model with its version, for the user."""
        which = self.label or self.version
        return f"{self.model}:{which}" if which else self.model


class Channel(Protocol):
    """What both protocols do. Calls may come from several threads."""

    def signatures(self, seconds: float) -> dict[str, "Signature"]:
        """What the model offers, by name."""

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Answer]:
        """The answers to encoded images, within so many seconds."""

    def close(self) -> None:
        """Ends the connections."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names of its tensors, each with its last dimension, None where it is free."""

    inputs: Mapping[str, int | None]
    outputs: Mapping[str, int | None]


def check(address: Address, found: Mapping[str, Signature]) -> int | None:
    """How many classes an answer has; None where the signature leaves it open.

    Raises:
        config.Refused: the signature is not there, or is not of encoded images.
    """
    signature = found.get(address.signature)
    if signature is None:
        raise config.Refused(
            f"--signature={address.signature}: {address.name} at {address.server} has "
            f"{', '.join(sorted(found)) or 'none'}"
            f"{config.nearest(address.signature, list(found))}"
        )
    if list(signature.inputs) != [INPUT] or not {*OUTPUTS} <= signature.outputs.keys():
        raise config.Refused(
            f"--signature={address.signature}: {address.name} at {address.server} maps "
            f"{', '.join(sorted(signature.inputs))} to "
            f"{', '.join(sorted(signature.outputs))}; need {INPUT} to "
            f"{', '.join(OUTPUTS)}, as tools.export writes it"
        )
    return signature.outputs["scores"]


class Grpc:
    """By gRPC, with the messages of tensorflow-serving-api."""

    def __init__(self, address: Address):
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise config.Refused(
                f"--protocol=grpc needs {error.name}: pip install -r "
                "requirements-serving.txt, or use --protocol=rest"
            ) from error
        options = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,
            "grpc.initial_reconnect_backoff_ms": 100,  # ours is the one that waits
            "grpc.min_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": 2000,
        }
        self.address = address
        if address.tls:
            self._channel = grpc.secure_channel(
                address.server, grpc.ssl_channel_credentials(), list(options.items())
            )
        else:
            self._channel = grpc.insecure_channel(address.server, list(options.items()))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def signatures(self, seconds: float) -> dict[str, Signature]:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        self._name_model(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._stub.GetModelMetadata, request, seconds)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: Signature(_last_dims(found.inputs), _last_dims(found.outputs))
            for name, found in signatures.signature_def.items()
        }

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Answer]:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._name_model(request.model_spec)
        request.model_spec.signature_name = self.address.signature
        request.inputs[INPUT].CopyFrom(
            tf.make_tensor_proto(list(encoded), tf.string, [len(encoded)])
        )
        response = self._call(self._stub.Predict, request, seconds)
        found = {name: tf.make_ndarray(t) for name, t in response.outputs.items()}
        return _answers_of(self.address, found, len(encoded))

    def close(self) -> None:
        self._channel.close()

    def _name_model(self, spec) -> None:
        spec.name = self.address.model
        if self.address.label:
            spec.version_label = self.address.label
        elif self.address.version:
            spec.version.value = self.address.version

    def _call(self, method, request, seconds: float):
        import grpc

        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            reason = f"{code.name}: {' '.join(details.split())}"
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            raise retrying.Passing(reason)
        missing = code is grpc.StatusCode.NOT_FOUND
        raise _refusal(self.address, reason, missing=missing)


class Rest:
    """By REST, with urllib3.

    It keeps connections for several threads and notices those that the server has
    closed, which the standard library leaves to its caller; requests would add nothing
    that is needed here. Its own retries are off: the deadline is ours.
    """

    def __init__(self, address: Address):
        import urllib3

        self.address = address
        self._pool = urllib3.PoolManager(maxsize=64, retries=False)
        which = ""
        if address.label:
            which = f"/labels/{urllib.parse.quote(address.label, safe='')}"
        elif address.version:
            which = f"/versions/{address.version}"
        model = urllib.parse.quote(address.model, safe="")
        scheme = "https" if address.tls else "http"
        self._url = f"{scheme}://{address.server}/v1/models/{model}{which}"

    def signatures(self, seconds: float) -> dict[str, Signature]:
        content = self._call("GET", f"{self._url}/metadata", None, seconds)
        try:  # what is empty may be absent
            found = content["metadata"]["signature_def"]["signature_def"]
            return {
                name: Signature(
                    _last_sizes(signature.get("inputs", {})),
                    _last_sizes(signature.get("outputs", {})),
                )
                for name, signature in found.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _refusal(self.address, "metadata of another form") from error

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Answer]:
        images = [{"b64": base64.b64encode(image).decode()} for image in encoded]
        body = {"signature_name": self.address.signature, "inputs": {INPUT: images}}
        content = self._call("POST", f"{self._url}:predict", json.dumps(body), seconds)
        found = content.get("outputs")
        if not isinstance(found, dict):
            raise _refusal(self.address, "an answer without outputs")
        return _answers_of(self.address, found, len(encoded))

    def close(self) -> None:
        self._pool.clear()

    def _call(self, method: str, url: str, body: str | None, seconds: float) -> Any:
        import urllib3

        until = time.monotonic() + seconds
        headers = {"Content-Type": "application/json"} if body else None
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(total=seconds),
                preload_content=False,
            )
            text = _read(response, until)
        except urllib3.exceptions.LocationValueError as error:
            raise config.Refused(
                f"--server={self.address.server}: {error}; need HOST:PORT"
            ) from None
        except urllib3.exceptions.HTTPError as error:
            raise retrying.Passing(_reason(error)) from error
        content = _parse(text)
        if response.status == 200 and content is not None:
            return content
        said = content.get("error") if isinstance(content, dict) else None
        reason = f"HTTP {response.status}: {' '.join(str(said or text[:200]).split())}"
        if response.status in (408, 409, 429, 502, 503, 504):
            after = response.headers.get("Retry-After", "")
            wait = float(after) if after.isdecimal() else 0.0
            raise retrying.Passing(reason, after_seconds=wait)
        raise _refusal(self.address, reason, missing=response.status == 404)


def _refusal(address: Address, reason: str, *, missing: bool = False) -> config.Refused:
    """One line for what asking again would not mend."""
    if missing:
        return config.Refused(
            f"--model={address.name}: {address.server} does not serve it ({reason}); "
            "name another with --model, --version or --label"
        )
    return config.Refused(f"{address.server}, model {address.name}: {reason}")


def _answers_of(
    address: Address, found: Mapping[str, Any], count: int
) -> list[predictions.Answer]:
    """The answers in the outputs of the signature."""
    try:
        classes = [[_text(name) for name in row] for row in found["classes"]]
        errors = [_text(error) for error in found.get(ERRORS, [""] * count)]
        said = predictions.of_arrays(classes, found["scores"], errors)
    except (KeyError, TypeError, ValueError) as error:
        raise _refusal(
            address, f"outputs of another form ({type(error).__name__}: {error})"
        ) from error
    if len(said) != count:
        raise _refusal(address, f"{len(said)} answers to {count} images")
    return said


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _last_dims(tensors) -> dict[str, int | None]:
    """Last dimensions of TensorInfo messages."""
    dims = {name: [d.size for d in t.tensor_shape.dim] for name, t in tensors.items()}
    return {name: _known(sizes) for name, sizes in dims.items()}


def _last_sizes(tensors) -> dict[str, int | None]:
    """The same of their JSON."""
    dims = {
        name: [int(d.get("size", 0)) for d in t.get("tensor_shape", {}).get("dim", [])]
        for name, t in tensors.items()
    }
    return {name: _known(sizes) for name, sizes in dims.items()}


def _known(sizes: Sequence[int]) -> int | None:
    return sizes[-1] if len(sizes) > 1 and sizes[-1] > 0 else None


def _read(response, until: float) -> bytes:
    """The body; a server that sends it drop by drop does not outlast the deadline."""
    import urllib3

    parts = []
    for part in response.stream(2**20):
        parts.append(part)
        if time.monotonic() > until:
            response.close()
            raise urllib3.exceptions.HTTPError("the answer did not end in time")
    response.release_conn()
    return b"".join(parts)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """What urllib3 says, without the objects in it."""
    words = str(error).rpartition(": ")[2] or type(error).__name__
    return " ".join(words.split())
