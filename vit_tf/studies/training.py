"""One run with all that its config asks for: training, and the drawings beside it.

The loop knows nothing of pictures, and pictures nothing of the loop; here they meet.
"""

from collections.abc import Sequence
from typing import Any

from vit_tf import config
from vit_tf.inspection import masked_patch_figures, training_hooks
from vit_tf.runs import hooks, run_directory
from vit_tf.runtime import devices
from vit_tf.training import loop, setup


def train(
    cfg: config.Config,
    workdir: str,
    *,
    machine: devices.Runtime,
    data_dir: str | None = None,
) -> dict[str, Any] | None:
    """Trains one run, or resumes it, and draws what its config asks for.

    Takes, returns and raises what `loop.train` does.
    """
    return loop.train(
        cfg, workdir, machine=machine, data_dir=data_dir, more_hooks=drawings
    )


def drawings(
    run: run_directory.RunDirectory, prepared: setup.TrainingSetup
) -> Sequence[hooks.Hook]:
    """Returns the hooks that draw a run while it trains.

    Raises:
        errors.UserError: it asks for figures, but evaluates no split.
    """
    cfg, total_steps = prepared.cfg, prepared.total_steps
    return [
        *masked_patch_figures.draw_masked_patches(
            cfg,
            run,
            evaluator=prepared.evaluator,
            source=prepared.source,
            total_steps=total_steps,
        ),
        *training_hooks.draw_figures(
            cfg,
            run,
            model=prepared.trainable.model,
            source=prepared.source,
            total_steps=total_steps,
        ),
    ]
