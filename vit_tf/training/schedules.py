"""Schedules of the learning rate: warm-up, then one of the shapes of the papers."""

import keras
from keras import ops

from vit_tf import config, errors


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant, linear, cosine (Table 3) or steps (BiT, 3.3).

    The first update (step 0) has learning rate 0 when there is a warm-up. Steps are
    counted from the beginning of the run, at the paper's 30, 60 and 90 %, and taken
    one update after the mark, as the authors' code does. (That code has 40, 60 and 80 %
    in runs of 500 steps.)
    """

    def __init__(
        self,
        *,
        base: float,
        schedule: str,
        total_steps: int,
        warmup_steps: int = 0,
        linear_end: float = 1e-5,
    ):
        if warmup_steps >= total_steps and warmup_steps > 0:
            raise errors.UserError(
                f"optim.warmup_steps={warmup_steps}: the run has only {total_steps} "
                "steps; shorten the warm-up or train longer"
            )
        if schedule == config.Schedule.LINEAR and linear_end > base:
            raise errors.UserError(
                f"optim.linear_end={linear_end}: above optim.lr={base}, where the "
                "schedule starts"
            )
        self.base = base
        self.schedule = config.Schedule(schedule)
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.linear_end = linear_end

    def __call__(self, step):
        """Computes the learning rate of update number `step` (0 is the first), float32."""
        step = ops.cast(step, "float32")
        progress = ops.clip(
            (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps),
            0.0,
            1.0,
        )
        rate = {
            config.Schedule.CONSTANT: lambda p: self.base * ops.ones_like(p),
            config.Schedule.LINEAR: lambda p: (
                self.linear_end + (self.base - self.linear_end) * (1.0 - p)
            ),
            config.Schedule.COSINE: lambda p: (
                self.base * 0.5 * (1.0 + ops.cos(3.141592653589793 * p))
            ),
            config.Schedule.STEPS: lambda _: self._stepwise(step, (0.3, 0.6, 0.9)),
            # Epochs 10, 23, 30 and 37 of BiT's 40 on JFT-300M.
            config.Schedule.STEPS_JFT: lambda _: self._stepwise(
                step, (0.25, 0.575, 0.75, 0.925)
            ),
        }[self.schedule](progress)
        if self.warmup_steps:
            rate *= ops.minimum(1.0, step / self.warmup_steps)
        return rate

    def _stepwise(self, step, marks: tuple[float, ...]):
        """Takes a tenth of the rate after each of BiT's marks (arXiv 1912.11370, 3.3)."""
        rate = self.base * ops.ones_like(step)
        for share in marks:
            mark = round(share * self.total_steps)
            rate *= ops.where(step > mark, 0.1, 1.0)
        return rate
