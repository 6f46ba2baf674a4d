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
def data_dir(tmp_path_factory) -> str:
    """A folder with `digits` prepared, once for all test processes."""
    from vit_tf.data.builders import digits

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "data"
    folder.mkdir(exist_ok=True)
    with open(root / "data.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digits.Digits(data_dir=str(folder)).download_and_prepare()
    return str(folder)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, data_dir):
    """The folder of a finished run of `tiny.EVALUATED`, for reading."""
    import tiny

    from vit_tf import train

    workdir = tmp_path_factory.mktemp("evaluated")
    cfg = tiny.make(**tiny.EVALUATED)
    train.train(cfg, str(workdir), machine=tiny.one_device(), data_dir=data_dir)
    return workdir
