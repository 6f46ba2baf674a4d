"""Asks a TensorFlow Serving by gRPC, with the messages of tensorflow-serving-api."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_tf import errors
from vit_tf.serving import predictions
from vit_tf.serving.client import channel, retrying


class GrpcChannel:
    """Asks by gRPC; see `channel.Channel`."""

    def __init__(self, address: channel.Address):
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise errors.UserError(
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

    def metadata(self, seconds: float) -> channel.Metadata:
        """Returns what the model offers, within so many seconds."""
        from tensorflow_serving.apis import get_model_metadata_pb2  # pyright: ignore[reportMissingImports]

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        self._name_model(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._stub.GetModelMetadata, request, seconds)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        version = response.model_spec.version.value or None
        return channel.Metadata(
            version,
            {
                name: channel.Signature(_last_dims(one.inputs), _last_dims(one.outputs))
                for name, one in signatures.signature_def.items()
            },
        )

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Prediction]:
        """Returns the predictions of encoded images, within so many seconds."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2  # pyright: ignore[reportMissingImports]

        request = predict_pb2.PredictRequest()
        self._name_model(request.model_spec)
        request.model_spec.signature_name = self.address.signature
        request.inputs[channel.INPUT].CopyFrom(
            tf.make_tensor_proto(list(encoded), tf.string, [len(encoded)])
        )
        response = self._call(self._stub.Predict, request, seconds)
        outputs = {name: tf.make_ndarray(t) for name, t in response.outputs.items()}
        return channel.predictions_of(self.address, outputs, len(encoded))

    def close(self) -> None:
        """Ends the connections."""
        self._channel.close()

    def _name_model(self, spec: Any) -> None:
        spec.name = self.address.model
        if self.address.label:
            spec.version_label = self.address.label
        elif self.address.version:
            spec.version.value = self.address.version

    def _call(self, method: Callable[..., Any], request: object, seconds: float) -> Any:
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
        raise channel.refusal(self.address, reason, missing=missing)


def _last_dims(tensors: Mapping[str, Any]) -> dict[str, int | None]:
    """Returns the last dimensions of TensorInfo messages."""
    dims = {name: [d.size for d in t.tensor_shape.dim] for name, t in tensors.items()}
    return {name: channel.known_size(sizes) for name, sizes in dims.items()}
