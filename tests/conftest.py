"""Test processes have eight virtual CPU devices, made before TensorFlow runs."""

import fcntl
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# As runtime.start does for every run.
tf.config.experimental.enable_op_determinism()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 8,
)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): the folder that `make(folder)` fills, once for all processes.

    Fixtures of a module would be made again by every test process that takes one of
    the module's tests.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder_of(name, make):
        folder, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def data_dir(once) -> str:
    """A folder with `digits` prepared."""

    def prepare(folder):
        from vit_tf.data.builders import digits

        digits.Digits(data_dir=str(folder)).download_and_prepare()

    return str(once("data", prepare))


@pytest.fixture(scope="session")
def evaluated(once, data_dir):
    """The folder of a finished run of `tiny.EVALUATED`, for reading."""

    def run(folder):
        from tests.support import tiny
        from vit_tf.studies import training

        cfg = tiny.make(**tiny.EVALUATED)
        training.train(cfg, str(folder), machine=tiny.one_device(), data_dir=data_dir)

    return once("evaluated", run)


@pytest.fixture(scope="session")
def masked(once, data_dir):
    """The folder of a finished run of `tiny.MASKED`, for reading."""

    def run(folder):
        from tests.support import tiny
        from vit_tf.studies import training

        cfg = tiny.make(**tiny.MASKED)
        training.train(cfg, str(folder), machine=tiny.one_device(), data_dir=data_dir)

    return once("masked", run)
