"""Asks a TensorFlow Serving by REST, with urllib3."""

import base64
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from vit_tf import errors
from vit_tf.serving import predictions
from vit_tf.serving.client import channel, retrying


class RestChannel:
    """Asks by REST; see `channel.Channel`.

    urllib3 keeps connections for several threads and notices those that the server has
    closed, which the standard library leaves to its caller; requests would add nothing
    that is needed here. Its own retries are off: the deadline is ours.
    """

    def __init__(self, address: channel.Address):
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

    def metadata(self, seconds: float) -> channel.Metadata:
        """Returns what the model offers, within so many seconds."""
        content = self.call("GET", f"{self._url}/metadata", None, seconds)
        try:  # what is empty may be absent
            described = content["metadata"]["signature_def"]["signature_def"]
            signatures = {
                name: channel.Signature(
                    _last_sizes(signature.get("inputs", {})),
                    _last_sizes(signature.get("outputs", {})),
                )
                for name, signature in described.items()
            }
            version = content.get("model_spec", {}).get("version")
            return channel.Metadata(int(version) if version else None, signatures)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise channel.refusal(self.address, "metadata of another form") from error

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Prediction]:
        """Returns the predictions of encoded images, within so many seconds."""
        images = [{"b64": base64.b64encode(image).decode()} for image in encoded]
        body = {
            "signature_name": self.address.signature,
            "inputs": {channel.INPUT: images},
        }
        content = self.call("POST", f"{self._url}:predict", json.dumps(body), seconds)
        outputs = content.get("outputs")
        if not isinstance(outputs, dict):
            raise channel.refusal(self.address, "an answer without outputs")
        return channel.predictions_of(self.address, outputs, len(encoded))

    def close(self) -> None:
        """Ends the connections."""
        self._pool.clear()

    def call(self, method: str, url: str, body: str | None, seconds: float) -> Any:
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
            raise errors.UserError(
                f"--server={self.address.server}: {error}; need HOST:PORT"
            ) from None
        except urllib3.exceptions.HTTPError as error:
            raise retrying.Passing(_reason(error)) from error
        content = _parse(text)
        if response.status == 200 and content is not None:
            return content
        problem = content.get("error") if isinstance(content, dict) else None
        reason = (
            f"HTTP {response.status}: {' '.join(str(problem or text[:200]).split())}"
        )
        if response.status in (408, 409, 429, 502, 503, 504):
            after = response.headers.get("Retry-After", "")
            wait = float(after) if after.isdecimal() else 0.0
            raise retrying.Passing(reason, after_seconds=wait)
        raise channel.refusal(self.address, reason, missing=response.status == 404)


def _last_sizes(tensors: Mapping[str, Any]) -> dict[str, int | None]:
    """Returns the last dimensions of TensorInfo messages in JSON."""
    dims = {
        name: [int(d.get("size", 0)) for d in t.get("tensor_shape", {}).get("dim", [])]
        for name, t in tensors.items()
    }
    return {name: channel.known_size(sizes) for name, sizes in dims.items()}


def _read(response: Any, until: float) -> bytes:
    """Reads the body, but not for longer than until the deadline."""
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
    """Returns urllib3's words, without the objects in them."""
    words = str(error).rpartition(": ")[2] or type(error).__name__
    return " ".join(words.split())
