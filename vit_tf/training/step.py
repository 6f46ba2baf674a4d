"""One training step: the order that makes it independent of the replicas.

    local loss = sum / global batch -> gradients, summed over micro-batches ->
    ONE all-reduce(SUM) -> global norm -> clip -> update -> Polyak average

Clipping before the sum, as Keras does, would clip other gradients than one
device clips. Every random draw comes from (seed, step, replica, micro-batch).
Whether a step is taken is decided on the summed gradients too, so that an overflow on
one replica stops all of them.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.data import mixup_cutmix
from vit_tf.training import optimizers

# What a step reports, each a float32 scalar of the global batch.
METRICS = ("loss", "gradient_norm", "learning_rate")
# What it reports too where steps may be skipped: counts since the run began, and the
# loss scale of this step.
COUNTS = ("skipped_steps", "bad_steps")
SCALE = "loss_scale"


def build(
    cfg: config.Config,
    *,
    model,
    objective,
    optimizer: optimizers.SummedGradients,
    strategy: tf.distribute.Strategy,
    jit_compile: bool,
) -> Callable:
    """Returns `steps(iterator, count)`, which runs `count` steps in one call.

    `count` is an int32 scalar tensor; the result maps `METRICS`, and `COUNTS` and
    `SCALE` where the optimizer has them, to float32 (count,) tensors. One trace
    serves every count.
    """
    replicas = strategy.num_replicas_in_sync
    share(cfg, replicas=replicas)  # refuses what does not divide
    variables = trained(model, objective)
    gradients_of = tf.function(
        _gradients(cfg, model=model, objective=objective),
        jit_compile=jit_compile,
        autograph=False,
    )

    def replica_step(batch):
        context = tf.distribute.get_replica_context()
        step = tf.cast(optimizer.iterations.value, tf.int32)
        seed = draw_seed(cfg.train.seed, step, context.replica_id_in_sync_group)
        scale = optimizer.loss_scale.value if optimizer.scales else None
        loss, gradients = gradients_of(batch, seed, scale)
        if cfg.optim.sum_dtype == config.GradientDtype.BFLOAT16:
            gradients = [_shortened(g) for g in gradients]
        loss, *gradients = _summed([loss, *gradients])
        gradients = [tf.cast(g, v.dtype) for g, v in zip(gradients, variables)]
        if optimizer.scales:
            gradients = [g / scale for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        gradients = optimizers.clip(gradients, cfg.optim.clip_norm, norm)
        if optimizer.skips:
            taken = tf.math.is_finite(loss) & tf.math.is_finite(norm)
            gradients = optimizers.marked(gradients, taken)
        rate = tf.convert_to_tensor(optimizer.learning_rate, tf.float32)
        # The step counter depends on no data and would run ahead of a batch that
        # cannot be read; a checkpoint would then hold one step too many.
        with tf.control_dependencies([norm]):
            optimizer.apply(gradients, variables)
        return tf.stack(_row(optimizer, loss, norm, rate, scale))

    names = METRICS + COUNTS * optimizer.skips + (SCALE,) * optimizer.scales

    @tf.function
    def steps(iterator, count):
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(names)])
        for i in tf.range(count):
            results = strategy.run(replica_step, args=(next(iterator),))
            # Already equal on every replica; the first speaks for all.
            rows = rows.write(i, strategy.experimental_local_results(results)[0])
        return dict(zip(names, tf.unstack(rows.stack(), axis=1)))

    return steps


def _shortened(gradient: tf.Tensor) -> tf.Tensor:
    """A matrix in bfloat16, which in mixed precision its gradient had before.

    Half as much to store and to send. Vectors, which are few, stay exact.
    """
    return tf.cast(gradient, tf.bfloat16) if gradient.shape.rank > 1 else gradient


def _summed(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums over replicas: one all-reduce, or one for each type where there are two.

    What several GPUs and hosts use packs the tensors of a call into one.
    """
    context = tf.distribute.get_replica_context()
    summed: dict[int, tf.Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        found = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [tensors[i] for i in places]
        )
        summed |= dict(zip(places, found))
    return [summed[i] for i in range(len(tensors))]


def _row(optimizer, loss, norm, rate, scale) -> list[tf.Tensor]:
    """What a step reports, in the order of the names; counts the step first."""
    row = [loss, norm, rate]
    if optimizer.skips:
        optimizer.note(loss, norm)
        counts = [optimizer.skipped.value, optimizer.bad.value]
        row += [tf.cast(count, tf.float32) for count in counts]
    return [*row, scale] if optimizer.scales else row


def trained(model, objective) -> list:
    """The variables that a step changes: the model's, then the objective's own."""
    return [*model.trainable_variables, *objective.variables]


def share(cfg: config.Config, *, replicas: int) -> int:
    """Examples per replica and micro-batch; refuses a batch that does not divide."""
    batch, parts = cfg.data.batch_size, replicas * cfg.train.accumulation
    if batch % parts:
        raise config.Refused(
            f"data.batch_size={batch}: not divisible by {replicas} replicas x "
            f"{cfg.train.accumulation} micro-batches; "
            f"near: {config.near_multiples(batch, parts)}"
        )
    if mixup_cutmix.is_on(cfg.data) and batch // parts % 2:
        raise config.Refused(
            f"data.batch_size={batch}: {batch // parts} images per replica and "
            "micro-batch, but data.mixup and data.cutmix mix pairs; "
            f"near: {config.near_multiples(batch, 2 * parts)}"
        )
    return batch // parts


def draw_seed(seed: int, step: tf.Tensor, replica: tf.Tensor) -> tf.Tensor:
    """int32 (2,) that differs for every step and replica."""
    key = tf.constant([seed, 0x5EED], tf.int32)
    for number in (step, replica):
        key = tf.random.experimental.stateless_fold_in(key, number)
    return key


def _gradients(cfg: config.Config, *, model, objective) -> Callable:
    """(batch, seed, scale) -> loss and gradients of this replica's part of the batch.

    The gradients, not the loss, are multiplied by `scale`, unless it is None.
    """
    variables = trained(model, objective)
    parts = cfg.train.accumulation

    def micro(batch, seed, scale):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            losses, _ = objective(model, batch, seed)
            loss = tf.reduce_sum(losses) / cfg.data.batch_size
            scaled = loss if scale is None else loss * scale
        return loss, tape.gradient(
            scaled,
            [v.value for v in variables],
            # What the loss does not depend on has a gradient: zero.
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def accumulated(batch, seed, scale):
        if parts == 1:
            return micro(batch, seed, scale)
        cut = {
            name: tf.reshape(value, [parts, -1, *value.shape[1:]])
            for name, value in batch.items()
        }

        def add(i, loss, sums):
            piece = {name: value[i] for name, value in cut.items()}
            fold = tf.random.experimental.stateless_fold_in(seed, i)
            more, gradients = micro(piece, fold, scale)
            return i + 1, loss + more, [s + g for s, g in zip(sums, gradients)]

        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        _, loss, sums = tf.while_loop(
            lambda i, *_: i < parts,
            add,
            (tf.constant(0), tf.constant(0.0), zeros),
            maximum_iterations=parts,
            # Else the next part's activations are made while this one's are held.
            parallel_iterations=1,
        )
        return loss, sums

    return accumulated


def noise(cfg: config.Config, *, num_classes: int) -> dict[str, np.ndarray]:
    """A global batch of noise, as the stream gives it, to measure or check steps with."""
    rng = np.random.default_rng(0)
    size, number = cfg.data.image_size, cfg.data.batch_size
    return {
        "image": rng.integers(0, 256, (number, size, size, 3), np.uint8),
        "label": rng.integers(0, num_classes, (number,), np.int32),
    }
