"""`make` sets up an environment, or says in one line why this Python cannot have one."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import tiny

pytestmark = pytest.mark.needs("make")

# Stands in for an interpreter: the real one runs the check under another version or
# without a module; the rest is written down, and `-m venv DIR` makes DIR/bin/python.
_STAND_IN = """#!/bin/sh
if [ "$1" = tools/check_python.py ]; then
  exec {real!r} -S -c '
import runpy, sys
sys.version_info = {version!r}
sys.modules.update(dict.fromkeys({missing}))
runpy.run_path(sys.argv[1], run_name="__main__")' "$1"
fi
echo "$*" >> '{log}'
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


def _make(*arguments):
    """`make` as a user starts it, who is in no other `make`."""
    outside = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=tiny.ROOT,
        env=outside,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def make(tmp_path):
    """make(target, version, missing): its end, and what the interpreters were told."""

    def run(target, version=(3, 12, 1), missing=()):
        program = tmp_path / "a folder with blanks" / "python3"
        program.parent.mkdir(exist_ok=True)
        log = tmp_path / "log"
        log.write_text("")
        program.write_text(
            _STAND_IN.format(
                real=sys.executable,
                version=version,
                missing=json.dumps(missing),
                log=log,
            )
        )
        program.chmod(0o755)
        done = _make(target, f"PYTHON={program}", f"VENV={tmp_path / 'env'}")
        return done, log.read_text().splitlines()

    return run


def _refusal(done):
    """The one line on stderr beside make's own."""
    assert done.returncode == 2, done.stdout
    (line,) = [s for s in done.stderr.splitlines() if not s.startswith("make: ***")]
    return line


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)], ids=str)
def test_a_python_whose_path_has_blanks_makes_the_environment(make, tmp_path, version):
    done, told = make("demo", version)
    assert done.returncode == 0, done.stderr
    assert told[0] == f"-m venv {tmp_path / 'env'}"
    assert told[1].startswith("-m pip install ")
    assert told[1].endswith(" -r requirements.txt")
    assert told[2].startswith("-m tools.demo ") and len(told) == 3
    done, told = make("demo", version)
    assert done.returncode == 0 and len(told) == 1, "the environment is made once"


@pytest.mark.parametrize("target", ["demo", "test", "lint", "libtpu", "serving"])
@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 9), (3, 14, 0)], ids=str)
def test_other_pythons_are_refused_before_anything_is_made(make, version, target):
    done, told = make(target, version)
    line = _refusal(done)
    assert "needs Python 3.11 to 3.13" in line and "make PYTHON=python3.12" in line
    assert f"is {'.'.join(map(str, version))};" in line
    assert told == []


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_refused(make, module):
    done, told = make("test", missing=(module,))
    line = _refusal(done)
    assert f"no module {module}" in line and "apt-get install python3.12-venv" in line
    assert told == []


def test_a_program_that_is_not_there_is_named():
    done = _make("test", "PYTHON=/no such/python3", "VENV=/no/such")
    assert _refusal(done).startswith("PYTHON=/no such/python3: no such program")
