"""What both protocols share: a model on a TensorFlow Serving, and what it offers.

`grpc_channel` and `rest_channel` say the same: which signatures there are, and the
answers to a batch of encoded images. Failures that may pass are `retrying.Passing`;
what the user can mend is `errors.UserError`. Outputs are not filtered: a ModelServer
batches only requests for all outputs of a signature
(tensorflow_serving/batching/batching_session.cc, 2.20.0).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from vit_tf import errors, identity
from vit_tf.serving import predictions

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

    def metadata(self, seconds: float) -> "Metadata":
        """Returns what the model offers, within so many seconds."""
        ...

    def predict(
        self, encoded: Sequence[bytes], seconds: float
    ) -> list[predictions.Prediction]:
        """Returns the predictions of encoded images, within so many seconds."""
        ...

    def close(self) -> None:
        """Ends the connections."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names of its tensors, each with its last dimension, None where it is free."""

    inputs: Mapping[str, int | None]
    outputs: Mapping[str, int | None]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The version of the model that answers, if the server says it; its signatures."""

    version: int | None
    signatures: Mapping[str, Signature]


def check(address: Address, signatures: Mapping[str, Signature]) -> int | None:
    """Checks a signature: the number of its classes; None where it leaves that open.

    Raises:
        errors.UserError: the signature is not there, or is not of encoded images.
    """
    signature = signatures.get(address.signature)
    if signature is None:
        raise errors.UserError(
            f"--signature={address.signature}: {address.name} at {address.server} has "
            f"{', '.join(sorted(signatures)) or 'none'}"
            f"{errors.nearest(address.signature, list(signatures))}"
        )
    if list(signature.inputs) != [INPUT] or not {*OUTPUTS} <= signature.outputs.keys():
        raise errors.UserError(
            f"--signature={address.signature}: {address.name} at {address.server} maps "
            f"{', '.join(sorted(signature.inputs))} to "
            f"{', '.join(sorted(signature.outputs))}; need {INPUT} to "
            f"{', '.join(OUTPUTS)}, as tools.export writes it"
        )
    return signature.outputs["scores"]


def identify(address: Address, metadata: Metadata, top: int) -> identity.Identity:
    """Returns what answers follow from: no server says what its weights are.

    The port is left out, as both protocols have one of their own.
    """
    return identity.Identity.of(
        weights="",
        settings={
            "server": address.server.rpartition(":")[0],
            "model": address.model,
            "version": metadata.version,
            "signature": address.signature,
            "top": top,
        },
    )


def refusal(
    address: Address, reason: str, *, missing: bool = False
) -> errors.UserError:
    """Makes the one line for what asking again would not mend."""
    if missing:
        return errors.UserError(
            f"--model={address.name}: {address.server} does not serve it ({reason}); "
            "name another with --model, --version or --label"
        )
    return errors.UserError(f"{address.server}, model {address.name}: {reason}")


def predictions_of(
    address: Address, outputs: Mapping[str, Sequence | np.ndarray], count: int
) -> list[predictions.Prediction]:
    """Reads the predictions in the outputs of the signature."""
    try:
        classes = [[_text(name) for name in row] for row in outputs["classes"]]
        errors = [_text(error) for error in outputs.get(ERRORS, [""] * count)]
        answers = predictions.of_arrays(classes, outputs["scores"], errors)
    except (KeyError, TypeError, ValueError) as error:
        raise refusal(
            address, f"outputs of another form ({type(error).__name__}: {error})"
        ) from error
    if len(answers) != count:
        raise refusal(address, f"{len(answers)} answers to {count} images")
    return answers


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def known_size(sizes: Sequence[int]) -> int | None:
    return sizes[-1] if len(sizes) > 1 and sizes[-1] > 0 else None
