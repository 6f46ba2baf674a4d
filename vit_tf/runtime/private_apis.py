"""Every private name of a library that `vit_tf` uses, with the reason.

`tests/runtime/test_private_apis.py` holds that no other file uses one, and that those
here are still there.
"""

import functools

# How long a cluster waits for a worker, and after which silence it counts as dead. No
# public function sets them: TensorFlow would wait an hour for a worker that does not
# come, and takes one for dead that a busy host kept silent for 10 seconds.
from tensorflow.python.eager import context as eager_context


def set_cluster_seconds(*, start: int, silence: int) -> None:
    """Sets how long this process' cluster waits, before the cluster is formed.

    Args:
        start: seconds until all workers have to be there.
        silence: seconds after which a worker that says nothing counts as dead.
    """
    context = eager_context.context()
    context.configure_coordination_service = functools.partial(
        context.configure_coordination_service,
        cluster_register_timeout_in_ms=start * 1000,
        heartbeat_timeout_in_ms=silence * 1000,
    )
