"""Update rules, decay mask and Polyak average, as the authors' code.

Written here because Keras' own differ: its Adam adds epsilon before the bias
correction, its SGD keeps the learning rate inside the momentum, its average
starts after the first step, and all of them clip before gradients are summed
over replicas. These rules expect gradients that are already summed and clipped.
"""

import keras
import tensorflow as tf

from vit_tf import config
from vit_tf.training import schedules

# The dynamic loss scale of float16: powers of two, so that dividing by it is exact.
FIRST_SCALE, LARGEST_SCALE = 2.0**15, 2.0**24
GROW_AFTER = 2000  # steps without an overflow


class SummedGradients(keras.optimizers.Optimizer):
    """A Keras optimizer for gradients that are already summed over replicas.

    Decay is decoupled and multiplied by the learning rate:
    theta <- theta - lr * (direction + weight_decay * theta).

    Args:
        learning_rate: a `schedules.LearningRate`.
        weight_decay: 0 switches it off.
        decay: which variables decay.
        polyak: decay of the averaged weights, or None. The average starts at
            the weights that `start_average` finds and has no bias correction.
        moment_dtype: how the first moment is stored.
        skips: whether steps may be skipped (`marked`). A skipped step leaves
            weights, slots and average alone. `iterations` counts it all the same,
            being the position in the data and in the schedule; so does `skipped`,
            and the updates, which bias correction goes by, are their difference.
        scales: whether there is a dynamic loss scale, for float16.
    """

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay: float = 0.0,
        decay: config.Decay = config.Decay.KERNELS,
        polyak: float | None = None,
        moment_dtype: config.GradientDtype = config.GradientDtype.FLOAT32,
        skips: bool = False,
        scales: bool = False,
    ):
        # A fixed name: Keras would number the optimizers of a process, and the
        # names are those of the arrays in a checkpoint.
        super().__init__(learning_rate=learning_rate, name="optimizer")
        self.decay_rate = weight_decay
        self.decay = decay
        self.polyak = polyak
        self.moment_dtype = str(moment_dtype)
        self.skips, self.scales = skips or scales, scales

    def build(self, variables):
        super().build(variables)
        if self.skips:
            self.skipped = self._counter("skipped")
            self.bad = self._counter("bad_steps")
        if self.scales:
            self.loss_scale = self._counter("loss_scale", "float32", FIRST_SCALE)
            self._good = self._counter("steps_at_this_scale")
        self._decayed = [decays(v.path, self.decay) for v in variables]
        self.averages = [
            self.add_variable_from_reference(v, name="polyak")
            for v in (variables if self.polyak else [])
        ]

    def _counter(self, name: str, dtype: str = "int32", value: float = 0):
        return self.add_variable(
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def _first_moments(self, variables, name: str):
        # As Keras names slots, but with a type of their own.
        return [
            self.add_variable(
                shape=v.shape,
                dtype=self.moment_dtype,
                name=f"{v.path.replace('/', '_')}_{name}",
            )
            for v in variables
        ]

    def start_average(self):
        """Sets the averaged weights to the present ones (after loading)."""
        for average, variable in zip(self.averages, self._trainable_variables):
            average.assign(variable)

    def updates(self):
        """Counts the coming update, from 1, without the skipped steps."""
        done = self.iterations + 1
        return done - tf.cast(self.skipped, done.dtype) if self.skips else done

    def note(self, loss, norm):
        """Counts a step by its loss and gradient norm; moves the loss scale.

        A gradient that is too large for float16 under the present scale is no bad
        step: the scale is halved, and doubled again after `GROW_AFTER` steps.
        """
        good = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        self.skipped.assign_add(tf.cast(~good, tf.int32))
        bad = ~good
        if self.scales:
            scale, since = self.loss_scale.value, self._good + 1
            bad = ~tf.math.is_finite(loss) | (~good & (scale <= 1.0))
            grow = good & (since >= GROW_AFTER)
            moved = tf.where(good, scale, tf.maximum(scale / 2.0, 1.0))
            moved = tf.where(grow, tf.minimum(scale * 2.0, LARGEST_SCALE), moved)
            self.loss_scale.assign(moved)
            self._good.assign(tf.where(good & ~grow, since, 0))
        self.bad.assign_add(tf.cast(bad, tf.int32))

    def counts(self) -> dict[str, int]:
        """Counts the steps that were not taken, for the result."""
        if not self.skips:
            return {}
        return {
            "skipped_steps": int(self.skipped.numpy()),
            "bad_steps": int(self.bad.numpy()),
        }

    def direction(self, gradient, index: int):
        """Computes what to subtract from variable `index`, and new values of its slots.

        Returns:
            A tensor like the gradient, and [(slot, value), ...].
        """
        raise NotImplementedError

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        step, changes = self.direction(tf.cast(gradient, variable.dtype), index)
        if self.decay_rate and self._decayed[index]:
            step = step + self.decay_rate * variable
        updated = variable - rate * step
        changes = [*changes, (variable, updated)]
        if self.polyak:
            average = self.averages[index]
            kept = self.polyak * average + (1.0 - self.polyak) * updated
            changes.append((average, kept))
        taken = tf.math.is_finite(tf.reshape(gradient, [-1])[0])  # see `marked`
        for place, value in changes:
            value = tf.cast(value, place.dtype)
            self.assign(place, tf.where(taken, value, place) if self.skips else value)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # The step has done it, once, before clipping; Keras would do it here.
        return list(grads_and_vars)


class Adam(SummedGradients):
    """Adam as in optax: m_hat / (sqrt(v_hat) + epsilon)."""

    def __init__(self, learning_rate, *, beta1, beta2, epsilon, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def build(self, variables):
        super().build(variables)
        self.first = self._first_moments(variables, "first_moment")
        (self.second,) = self.add_optimizer_variables(variables, ["second_moment"])

    def direction(self, gradient, index):
        count = tf.cast(self.updates(), gradient.dtype)
        first = tf.cast(self.first[index], gradient.dtype)
        second = self.second[index]
        m = self.beta1 * first + (1.0 - self.beta1) * gradient
        v = self.beta2 * second + (1.0 - self.beta2) * tf.square(gradient)
        m_hat = m / (1.0 - tf.pow(tf.cast(self.beta1, m.dtype), count))
        v_hat = v / (1.0 - tf.pow(tf.cast(self.beta2, v.dtype), count))
        slots = [(self.first[index], m), (second, v)]
        return m_hat / (tf.sqrt(v_hat) + self.epsilon), slots


class Momentum(SummedGradients):
    """SGD with momentum: m <- mu m + g; theta <- theta - lr m (vit_jax)."""

    def __init__(self, learning_rate, *, momentum, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables):
        super().build(variables)
        self.trace = self._first_moments(variables, "trace")

    def direction(self, gradient, index):
        trace = tf.cast(self.trace[index], gradient.dtype)
        m = self.momentum * trace + gradient
        return m, [(self.trace[index], m)]


def decays(path: str, decay: config.Decay) -> bool:
    """Returns whether the variable at `path` decays (biases, norms, tokens do not)."""
    return decay == config.Decay.ALL or path.rsplit("/", 1)[-1].endswith("kernel")


def build(
    optim: config.Optim,
    *,
    total_steps: int,
    variables,
    skips: bool = False,
    scales: bool = False,
) -> SummedGradients:
    """Makes the optimizer of a run, with its slots for `variables`."""
    rate = schedules.LearningRate(
        base=optim.lr,
        schedule=optim.schedule,
        total_steps=total_steps,
        warmup_steps=optim.warmup_steps,
        linear_end=optim.linear_end,
    )
    common = {
        "weight_decay": optim.weight_decay,
        "decay": optim.decay,
        "polyak": optim.polyak,
        "moment_dtype": optim.moment_dtype,
        "skips": skips,
        "scales": scales,
    }
    make = {
        config.Rule.ADAM: lambda: Adam(
            rate,
            beta1=optim.beta1,
            beta2=optim.beta2,
            epsilon=optim.epsilon,
            **common,
        ),
        config.Rule.SGD: lambda: Momentum(rate, momentum=optim.momentum, **common),
    }
    optimizer = make[optim.rule]()
    optimizer.build(variables)
    return optimizer


def clip(gradients: list[tf.Tensor], limit: float | None, norm: tf.Tensor):
    """Scales all gradients by min(1, limit / norm); `norm` is their global norm."""
    if limit is None:
        return gradients
    scale = limit / tf.maximum(norm, limit)
    return [g * tf.cast(scale, g.dtype) for g in gradients]


def marked(gradients: list[tf.Tensor], taken: tf.Tensor) -> list[tf.Tensor]:
    """Returns the gradients, or nothing but NaN where the step is not to be taken.

    An optimizer that skips leaves everything as it is at a NaN. The word travels in
    the gradients because only they reach the update of each replica's copy.
    """
    return [tf.where(taken, g, tf.constant(float("nan"), g.dtype)) for g in gradients]
