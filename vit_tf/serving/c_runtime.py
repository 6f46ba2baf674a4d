"""A SavedModel in TensorFlow's C++ runtime, as TensorFlow Serving runs it.

`TF_LoadSessionFromSavedModel` of TensorFlow's C API is `tensorflow::LoadSavedModel`,
which TensorFlow Serving's ModelServer links too: no Python is traced, the graph runs
in a session, and Grappler rewrites it as it does in the server. The libraries are
those of the installed package, opened by ctypes.
"""

import collections
import ctypes as c
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from vit_tf import errors

_Pointer = c.c_void_p


class _Buffer(c.Structure):
    _fields_ = [("data", _Pointer), ("length", c.c_size_t), ("free", _Pointer)]


class _Output(c.Structure):
    _fields_ = [("operation", _Pointer), ("index", c.c_int)]


class _String(c.Structure):
    """TF_TString, 24 bytes; only the library reads and writes them."""

    _fields_ = [("bytes", c.c_char * 24)]


class Model:
    """A loaded export; a context manager that frees what the library holds.

    For one thread: its calls share the place that errors are written to.

    Args:
        folder: with saved_model.pb in it.

    Attributes:
        signatures: name -> SignatureDef, those that can be called.

    Raises:
        errors.UserError: no SavedModel there, or one that cannot be loaded.
    """

    def __init__(self, folder: str):
        if not os.path.exists(os.path.join(folder, "saved_model.pb")):
            raise errors.UserError(
                f"{folder}: no saved_model.pb there; name the folder of one version, "
                "such as exports/photos/1"
            )
        self._status = _call("TF_NewStatus", _Pointer)
        self._graph = _call("TF_NewGraph", _Pointer)
        self._session = None
        options = _call("TF_NewSessionOptions", _Pointer)
        meta = _call("TF_NewBuffer", c.POINTER(_Buffer))
        try:
            tags = (c.c_char_p * 1)(b"serve")
            self._session = _call(
                "TF_LoadSessionFromSavedModel",
                _Pointer,
                _Pointer(options),
                None,
                os.fspath(folder).encode(),
                tags,
                1,
                _Pointer(self._graph),
                meta,
                self._s,
            )
            self._check(f"{folder}: cannot be loaded")
            meta_graph = tf.compat.v1.MetaGraphDef.FromString(
                c.string_at(meta.contents.data, meta.contents.length)
            )
        except BaseException:
            self.close()
            raise
        finally:
            _call("TF_DeleteSessionOptions", None, _Pointer(options))
            _call("TF_DeleteBuffer", None, meta)
        self.signatures = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if not name.startswith("__")
        }

    @property
    def _s(self) -> _Pointer:
        return _Pointer(self._status)

    def _check(self, what: str) -> None:
        if _call("TF_GetCode", c.c_int, self._s):
            message = _call("TF_Message", c.c_char_p, self._s).decode()
            raise errors.UserError(f"{what}: {' '.join(message.split())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; a second call does nothing."""
        if self._status is None:
            return
        if self._session is not None:
            _call("TF_CloseSession", None, _Pointer(self._session), self._s)
            _call("TF_DeleteSession", None, _Pointer(self._session), self._s)
        _call("TF_DeleteGraph", None, _Pointer(self._graph))
        _call("TF_DeleteStatus", None, self._s)
        self._status = self._session = None

    def __call__(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature: one of `signatures`.
            inputs: name -> array of the signature's type; objects or bytes for
                strings.

        Returns:
            name -> array; strings as bytes, dtype object.

        Raises:
            errors.UserError: what the runtime answers instead, in one line.
        """
        return self._run(signature, inputs)

    def seconds_by_op(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Runs a signature once and says where the time went.

        Returns:
            name of an operation, as the runtime rewrote the graph -> seconds of all
            its nodes, the longest first.
        """
        options = tf.compat.v1.RunOptions(
            trace_level=tf.compat.v1.RunOptions.FULL_TRACE
        )
        options = options.SerializeToString()
        asked = _call(
            "TF_NewBufferFromString", c.POINTER(_Buffer), options, len(options)
        )
        collected = _call("TF_NewBuffer", c.POINTER(_Buffer))
        try:
            self._run(signature, inputs, asked, collected)
            metadata = tf.compat.v1.RunMetadata.FromString(
                c.string_at(collected.contents.data, collected.contents.length)
            )
        finally:
            for buffer in (asked, collected):
                _call("TF_DeleteBuffer", None, buffer)
        seconds: Any = collections.Counter()  # whose values may be fractions
        for device in metadata.step_stats.dev_stats:
            for node in device.node_stats:
                label = node.timeline_label.partition(" = ")[2] or node.node_name
                seconds[label.partition("(")[0]] += node.op_end_rel_micros / 1e6
        return dict(seconds.most_common())

    def _run(
        self, signature, inputs, asked=None, metadata=None
    ) -> dict[str, np.ndarray]:
        wanted = self.signatures[signature]
        tensors, outputs = [], (_Pointer * len(wanted.outputs))()
        try:
            for name, info in wanted.inputs.items():
                tensors.append(_to_tensor(np.asarray(inputs[name]), info.dtype))
            _call(
                "TF_SessionRun",
                None,
                _Pointer(self._session),
                asked,
                self._places(wanted.inputs),
                (_Pointer * len(tensors))(*tensors),
                len(tensors),
                self._places(wanted.outputs),
                outputs,
                len(outputs),
                None,
                0,
                metadata,
                self._s,
            )
            self._check(f"signature {signature}")
            return {
                name: _from_tensor(tensor)
                for name, tensor in zip(wanted.outputs, outputs)
            }
        finally:
            for tensor in (*tensors, *outputs):
                if tensor:
                    _call("TF_DeleteTensor", None, _Pointer(tensor))

    def _places(self, infos) -> Any:
        """Finds the tensors of the graph that a signature names."""
        places = (_Output * len(infos))()
        for place, info in zip(places, infos.values()):
            name, index = info.name.split(":")
            place.operation = _call(
                "TF_GraphOperationByName",
                _Pointer,
                _Pointer(self._graph),
                name.encode(),
            )
            place.index = int(index)
        return places


def is_available() -> bool:
    """Returns whether the installed package has the libraries, as on Linux."""
    try:
        _library()
    except (errors.UserError, OSError):
        return False
    return True


@functools.cache
def _library() -> c.CDLL:
    """Loads TensorFlow's C API, in the process that has imported TensorFlow already."""
    folder = pathlib.Path(tf.__file__).parent
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        if not (folder / name).exists():
            raise errors.UserError(
                f"{name} is not in the installed tensorflow package: its C++ loader is "
                "known on Linux only"
            )
        opened = c.CDLL(os.fspath(folder / name), mode=c.RTLD_GLOBAL)
    return opened


def _call(name: str, result: Any, *arguments: Any) -> Any:
    """Calls a function of the C API; pointers must be wrapped by the caller."""
    function = getattr(_library(), name)
    function.restype = result
    return function(*[c.c_size_t(a) if isinstance(a, int) else a for a in arguments])


def _to_tensor(array: np.ndarray, dtype: int) -> int:
    kind = tf.dtypes.as_dtype(dtype)
    is_text = kind == tf.string
    array = array if is_text else np.ascontiguousarray(array, kind.as_numpy_dtype)
    size = array.size * c.sizeof(_String) if is_text else array.nbytes
    shape = (c.c_int64 * array.ndim)(*array.shape)
    tensor = _call(
        "TF_AllocateTensor", _Pointer, c.c_int(dtype), shape, c.c_int(array.ndim), size
    )
    data = _call("TF_TensorData", _Pointer, _Pointer(tensor))
    if not is_text:
        c.memmove(data, array.ctypes.data, array.nbytes)
        return tensor
    for i, text in enumerate(array.ravel()):
        text = text.encode() if isinstance(text, str) else memoryview(text).tobytes()
        place = _Pointer(data + i * c.sizeof(_String))
        _call("TF_StringInit", None, place)
        _call("TF_StringCopy", None, place, text, len(text))
    return tensor


def _from_tensor(tensor: int) -> np.ndarray:
    held = _Pointer(tensor)
    kind = tf.dtypes.as_dtype(_call("TF_TensorType", c.c_int, held))
    rank = _call("TF_NumDims", c.c_int, held)
    shape = [_call("TF_Dim", c.c_int64, held, c.c_int(i)) for i in range(rank)]
    data = _call("TF_TensorData", _Pointer, held)
    count = int(np.prod(shape))
    if kind != tf.string:
        size = count * kind.size
        flat = np.frombuffer(
            c.string_at(data, size) if size else b"", kind.as_numpy_dtype
        )
        return flat.reshape(shape)
    texts = np.empty(count, object)
    for i in range(count):
        place = _Pointer(data + i * c.sizeof(_String))
        length = _call("TF_StringGetSize", c.c_size_t, place)
        pointer = _call("TF_StringGetDataPointer", _Pointer, place)
        texts[i] = c.string_at(pointer, length) if length else b""
    return texts.reshape(shape)
