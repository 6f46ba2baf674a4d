"""What tests may need beyond requirements.txt, and what brings it.

A test that needs one of these is marked, as in `@pytest.mark.needs("tf2onnx")`, and
skipped where it is missing (tests/conftest.py). No other test may depend on what is
installed.
"""

import functools
import importlib.util
import shutil
import sys

from tests.support import browser

# Importable name -> the make target that installs it.
_PACKAGES = {
    "ai_edge_litert": "serving",
    "onnxruntime": "serving",
    "tensorflow_serving": "serving",
    "tf2onnx": "serving",
    "yaml": "serving",
    "jax": "libtpu",
    "libtpu": "libtpu",
}
# Programs that no package brings.
_PROGRAMS = {"chromium": browser.find, "make": functools.partial(shutil.which, "make")}


def is_package(name: str) -> bool:
    """Returns whether a make target installs it; False for a program.

    Raises:
        LookupError: it is neither; a test's mark is mistyped.
    """
    if name not in _PACKAGES and name not in _PROGRAMS:
        known = ", ".join(sorted([*_PACKAGES, *_PROGRAMS]))
        raise LookupError(f"needs({name!r}): tests/support/extras.py has {known}")
    return name in _PACKAGES


@functools.cache
def is_there(name: str) -> bool:
    """Returns whether a package can be imported, or a program started."""
    if is_package(name):
        return importlib.util.find_spec(name) is not None
    return _PROGRAMS[name]() is not None


def reason(missing: list[str]) -> str:
    """Returns one line: which of the names are missing, and what brings them."""
    return "; ".join(
        f"needs {name}: make {_PACKAGES[name]}"
        if is_package(name)
        else f"needs the program {name}"
        for name in missing
    )


def hide(*names: str) -> None:
    """Makes the packages impossible to import for the rest of this process."""
    sys.modules.update(dict.fromkeys(names))
