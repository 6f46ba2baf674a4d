"""Compiles the training step for a TPU, on a machine that has none.

python -m tools.tpu_check --config=experiments/pretrain.py:ViT-B/16,imagenet2012 \
    --config.data.batch_size=1024 --topology=v3:2x2 --replicas=8
python -m tools.tpu_check --config=tests/support/tiny_config.py --replicas=8 --execute

Prints one line of JSON; docs/scale.md says how to read it. Exit code 1: the step
does not fit.
"""

import json
import os
import sys

from absl import flags

from tools import command
from tools.flags import number_flags, path_flags

_CONFIG = command.define_config()
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "v3:2x2",
    "Chip and its arrangement: v2:2x2 and v3:2x2 have 8 devices, v4:2x2x1 has 4, "
    "v5e:2x4 and v6e:2x4 have 8, v5p:2x2x1 has 4.",
)
_REPLICAS = number_flags.define_integer(
    "replicas", 8, "Devices that share data.batch_size.", upper=65_536
)
_NUM_CLASSES = number_flags.define_integer(
    "num_classes", None, "For a data set that does not say.", upper=10_000_000
)
_EXECUTE = flags.DEFINE_boolean(
    "execute",
    False,
    "Runs the program on virtual CPU devices instead, and compares the new weights "
    "with those of one device: for small models.",
)
_TEXT = path_flags.define_path("text", None, "A file for the compiled program as text.")


def main() -> None:
    cfg = _CONFIG()
    path_flags.check_file(_TEXT)
    from tools.tpu import tpu_compiler

    tpu_compiler.require()
    if not _EXECUTE.value:
        with command.quiet_stderr():  # libtpu misses the host of a TPU, and says so
            tpu_compiler.devices(_TOPOLOGY.value)
    # Nothing runs on a GPU here, and JAX and TensorFlow would both take its memory.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    command.load_tensorflow()
    from tools.tpu import step_check

    common = {"replicas": _REPLICAS.value, "num_classes": _NUM_CLASSES.value}
    if _EXECUTE.value:
        print(json.dumps(step_check.agreement(cfg, **common)))
        return
    report = step_check.fit(
        cfg, topology=_TOPOLOGY.value, text_path=_TEXT.value, **common
    )
    print(json.dumps({name: _short(value) for name, value in report.items()}))
    if not report["fits"]:
        sys.exit(1)


def _short(value):
    """Writes four digits; more than such figures are worth."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    command.run(main)
