"""A protocol test server on the official messages: not TensorFlow Serving.

It speaks as much of TensorFlow Serving's gRPC and REST as the client uses, from its
documents: Predict, GetModelMetadata, GetModelStatus; `:predict`, `/metadata` and status.
What it proves is that the client keeps to the protocols; how a ModelServer batches,
loads and fails, it cannot show. `tools/serving/check_model_server.sh` asks a real one.
"""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import signal
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

CODE = grpc.StatusCode
# As http_server.cc of TensorFlow Serving maps them.
_HTTP = {
    CODE.INVALID_ARGUMENT: 400,
    CODE.FAILED_PRECONDITION: 400,
    CODE.NOT_FOUND: 404,
    CODE.RESOURCE_EXHAUSTED: 429,
    CODE.UNAVAILABLE: 503,
    CODE.DEADLINE_EXCEEDED: 504,
    CODE.INTERNAL: 500,
}
_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>\w+))?"
    r"(?P<what>/metadata|:predict)?"
)


RETRY_AFTER = None  # a header of failures


class Failed(Exception):
    """What a call ends with."""

    def __init__(self, code, details):
        super().__init__(details)
        self.code, self.details = code, details


class Server:
    """Both protocols on free ports of this machine.

    Attributes:
        failing: codes with which the next Predict calls end, first to last.
        delay_seconds: before each Predict.
        sizes: batches that were asked for and answered.
        together: the most Predict calls that were under way at once.
    """

    def __init__(self, folder, name, max_batch, *, grpc_port=0, rest_port=0):
        self.name, self.max_batch = name, max_batch
        self.versions = {int(p.name): p for p in pathlib.Path(folder).iterdir()}
        self.loaded = {v: tf.saved_model.load(str(p)) for v, p in self.versions.items()}
        self.labels = {"stable": min(self.versions)}
        self._lock, self._awake = threading.Lock(), threading.Event()
        self._now = 0
        self.reset()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(8))
        answers = _Grpc(self)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            answers, self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(answers, self._grpc)
        self.grpc = (
            f"127.0.0.1:{self._grpc.add_insecure_port(f'127.0.0.1:{grpc_port}')}"
        )
        self._http = _Http(("127.0.0.1", rest_port), _Rest)
        self._http.owner = self
        self.rest = f"127.0.0.1:{self._http.server_port}"

    def reset(self):
        """Forgets what was told and counted, and ends all delays."""
        self._awake.set()
        self._awake = threading.Event()
        self.failing, self.delay_seconds = [], 0.0
        self.sizes, self.together = [], 0

    def start(self):
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self):
        self.reset()
        self._grpc.stop(None)
        self._http.shutdown()
        self._http.server_close()

    def version(self, model, version=None, label=None) -> int:
        """The version that is meant, or NOT_FOUND."""
        chosen = self.labels.get(label) if label else version or max(self.versions)
        if model != self.name or chosen not in self.versions:
            raise Failed(CODE.NOT_FOUND, f"Servable not found for request: {model}")
        return chosen

    def predict(self, version, signature, inputs) -> dict[str, np.ndarray]:
        with self._lock:
            code = self.failing.pop(0) if self.failing else None
            self._now += 1
            self.together = max(self.together, self._now)
        try:
            self._awake.wait(self.delay_seconds)
            if code is not None:
                raise Failed(code, "told to fail")
            return self._run(version, signature, inputs)
        finally:
            with self._lock:
                self._now -= 1

    def _run(self, version, signature, inputs):
        function = self.loaded[version].signatures.get(signature or "serving_default")
        if function is None:
            raise Failed(CODE.INVALID_ARGUMENT, f"no signature {signature}")
        wanted = function.structured_input_signature[1]
        if inputs.keys() != wanted.keys():
            raise Failed(CODE.INVALID_ARGUMENT, f"inputs {[*inputs]}, need {[*wanted]}")
        count = len(next(iter(inputs.values())))
        if count > self.max_batch:
            raise Failed(
                CODE.INVALID_ARGUMENT,
                f"Task size {count} is larger than maximum input batch size "
                f"{self.max_batch}",
            )
        tensors = {n: tf.constant(v, wanted[n].dtype) for n, v in inputs.items()}
        try:
            found = {name: t.numpy() for name, t in function(**tensors).items()}
        except tf.errors.OpError as error:
            raise Failed(CODE.INVALID_ARGUMENT, error.message) from error
        with self._lock:
            self.sizes.append(count)
        return found

    def metadata(self, version):
        """GetModelMetadataResponse of a version, from its saved_model.pb."""
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((self.versions[version] / "saved_model.pb").read_bytes())
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, found in saved.meta_graphs[0].signature_def.items():
            signatures.signature_def[name].CopyFrom(found)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, version):
        response = get_model_status_pb2.GetModelStatusResponse()
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=version, state=available)
        return response


@contextlib.contextmanager
def serving(folder, name="vit", max_batch=16):
    """A `Server` of FOLDER/VERSION, started, and stopped at the end."""
    server = Server(folder, name, max_batch)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Grpc(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, owner):
        self.owner = owner

    def Predict(self, request, context):
        with _aborting(context):
            version = self._version(request)
            inputs = {name: tf.make_ndarray(t) for name, t in request.inputs.items()}
            signature = request.model_spec.signature_name
            found = self.owner.predict(version, signature, inputs)
            response = predict_pb2.PredictResponse()
            for name, value in found.items():
                if not request.output_filter or name in request.output_filter:
                    response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request, context):
        with _aborting(context):
            return self.owner.metadata(self._version(request))

    def GetModelStatus(self, request, context):
        with _aborting(context):
            return self.owner.status(self._version(request))

    def _version(self, request):
        spec = request.model_spec
        return self.owner.version(spec.name, spec.version.value, spec.version_label)


@contextlib.contextmanager
def _aborting(context):
    try:
        yield
    except Failed as failure:
        context.abort(failure.code, failure.details)


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that went away


class _Rest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def do_GET(self):
        self._answer(self._told)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self._answer(lambda *which: self._predicted(body, *which))

    def log_message(self, *_):
        pass

    def _answer(self, act):
        try:
            match = _PATH.fullmatch(self.path)
            if match is None:
                raise Failed(CODE.INVALID_ARGUMENT, f"Malformed request: {self.path}")
            version = match["version"] and int(match["version"])
            owner = self.server.owner
            chosen = owner.version(match["model"], version, match["label"])
            status, content = 200, act(owner, chosen, match["what"])
        except Failed as failure:
            status, content = _HTTP[failure.code], {"error": failure.details}
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status != 200 and RETRY_AFTER:
            self.send_header("Retry-After", RETRY_AFTER)
        self.end_headers()
        self.wfile.write(text)

    def _told(self, owner, version, what):
        if what != "/metadata":
            return _as_dict(owner.status(version))
        # TensorFlow Serving writes the signatures under their name twice.
        response = owner.metadata(version)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": _as_dict(response.model_spec),
            "metadata": {"signature_def": _as_dict(signatures)},
        }

    def _predicted(self, body, owner, version, what):
        if what != ":predict":
            raise Failed(CODE.INVALID_ARGUMENT, f"Malformed request: {self.path}")
        by_row = "instances" in body
        inputs = _by_name(body["instances"]) if by_row else body["inputs"]
        tensors = {name: _plain(v) for name, v in inputs.items()}
        found = owner.predict(version, body.get("signature_name"), tensors)
        columns = {name: _listed(value) for name, value in found.items()}
        if not by_row:
            return {"outputs": columns}
        rows = zip(*columns.values(), strict=True)
        return {"predictions": [dict(zip(columns, row)) for row in rows]}


def _by_name(instances):
    """Rows, with or without the name of the only input, as columns."""
    if "b64" in instances[0]:
        return {"image_bytes": instances}
    return {name: [row[name] for row in instances] for name in instances[0]}


def _plain(value):
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value


def _listed(value):
    if value.dtype == object:
        return np.vectorize(bytes.decode, otypes=[object])(value).tolist()
    return value.tolist()


def _as_dict(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def main(arguments):
    """Heeds as many flags of tensorflow_model_server as the checking script needs."""
    given = dict(a.removeprefix("--").split("=", 1) for a in arguments)
    text = pathlib.Path(given["model_config_file"]).read_text()
    models = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = models.model_config_list.config
    server = Server(
        model.base_path,
        model.name,
        16,
        grpc_port=int(given["port"]),
        rest_port=int(given["rest_api_port"]),
    )
    server.start()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
