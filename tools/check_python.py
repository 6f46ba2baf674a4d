"""Whether this Python can have the environment of the Makefile; else one line and code 1.

Run by the interpreter in question, whatever its age: no syntax that Python 2 lacks.
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 13)  # as requirements.txt says


def problem():
    """Returns what is wrong with this interpreter and what to do, or None."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not OLDEST <= tuple(sys.version_info[:2]) <= NEWEST:
        needed = "vit_tf needs Python 3.11 to 3.13 (TensorFlow has packages for these)"
        described = sys.executable + " is " + version
        return needed + ", and " + described + "; name another: make PYTHON=python3.12"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        package = "python" + ".".join(map(str, sys.version_info[:2])) + "-venv"
        lack = sys.executable + " has no module " + error.name
        remedy = "; on Debian and Ubuntu: apt-get install " + package
        return lack + ", which makes the environment" + remedy
    return None


if __name__ == "__main__":
    sys.exit(problem())
