"""One training step: the order that makes it independent of the replicas.

    local loss = sum / global batch -> gradients, summed over micro-batches ->
    ONE all-reduce(SUM) -> global norm -> clip -> update -> Polyak average

Clipping before the sum, as Keras does, would clip other gradients than one
device clips. Every random draw comes from the seed and the step: dropout's from replica
and micro-batch besides, so its masks, as those of any data-parallel training, are
others on another number of devices; an objective's own (masked patches) from the
example's place in the global batch, so that they are the same on any number.
Whether a step is taken is decided on the summed gradients too, so that an overflow on
one replica stops all of them.
"""

from collections.abc import Callable

import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import mixup_cutmix
from vit_tf.training import optimizers, train_state

# What a step reports, each a float32 scalar of the global batch.
METRICS = ("loss", "gradient_norm", "learning_rate")
# What it reports too where steps may be skipped: counts since the run began, and the
# loss scale of this step.
COUNTS = ("skipped_steps", "bad_steps")
SCALE = "loss_scale"


def build(
    state: train_state.TrainState,
    *,
    data: config.Data,
    train: config.Train,
    optim: config.Optim,
    strategy: tf.distribute.Strategy,
    jit_compile: bool,
) -> tf.types.experimental.PolymorphicFunction:
    """Returns `steps(iterator, count)`, which runs `count` steps in one call.

    `count` is an int32 scalar tensor; the result maps `METRICS`, and `COUNTS` and
    `SCALE` where the optimizer has them, to float32 (count,) tensors. One trace
    serves every count.

    Args:
        state: what a step changes.
        data: the global batch size, and whether images are mixed in pairs.
        train: the seed and the number of micro-batches.
        optim: how gradients are summed and clipped.
        strategy: whose replicas share a batch.
        jit_compile: whether XLA compiles each replica's forward and backward pass.

    Raises:
        errors.UserError: a batch that replicas and micro-batches cannot share.
    """
    replicas = strategy.num_replicas_in_sync
    share(data, accumulation=train.accumulation, replicas=replicas)
    optimizer = state.optimizer
    replica_step = _replica_step(
        state,
        data=data,
        train=train,
        optim=optim,
        replicas=replicas,
        jit_compile=jit_compile,
    )
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


def _replica_step(
    state: train_state.TrainState,
    *,
    data: config.Data,
    train: config.Train,
    optim: config.Optim,
    replicas: int,
    jit_compile: bool,
) -> Callable:
    """Makes batch -> what one step reports, on one replica; it
    takes the step on its way.
    """
    optimizer, variables = state.optimizer, state.variables
    gradients_of = tf.function(
        _gradients(state, batch_size=data.batch_size, accumulation=train.accumulation),
        jit_compile=jit_compile,
        autograph=False,
    )

    @tf.autograph.experimental.do_not_convert
    def replica_step(batch):
        context = tf.distribute.get_replica_context()
        step = tf.cast(optimizer.iterations.value, tf.int32)
        replica = context.replica_id_in_sync_group
        seed = draw_seed(train.seed, step, replica)
        batch = state.objective.draw(
            batch,
            draw_seed(train.seed, step),  # one for all replicas, unlike dropout's
            first=replica * (data.batch_size // replicas),
            total=data.batch_size,
        )
        scale = optimizer.loss_scale.value if optimizer.scales else None
        loss, gradients = gradients_of(batch, seed, scale)
        if optim.sum_dtype == config.GradientDtype.BFLOAT16:
            gradients = [_shortened(g) for g in gradients]
        loss, *gradients = _summed([loss, *gradients])
        gradients = [tf.cast(g, v.dtype) for g, v in zip(gradients, variables)]
        if optimizer.scales:
            gradients = [g / scale for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        gradients = optimizers.clip(gradients, optim.clip_norm, norm)
        if optimizer.skips:
            taken = tf.math.is_finite(loss) & tf.math.is_finite(norm)
            gradients = optimizers.marked(gradients, taken)
        rate = tf.convert_to_tensor(optimizer.learning_rate, tf.float32)
        # The step counter depends on no data and would run ahead of a batch that
        # cannot be read; a checkpoint would then hold one step too many.
        with tf.control_dependencies([norm]):
            optimizer.apply(gradients, variables)
        return tf.stack(_row(optimizer, loss, norm, rate, scale))

    return replica_step


def _shortened(gradient: tf.Tensor) -> tf.Tensor:
    """Shortens a matrix to bfloat16, which in mixed precision its gradient had before.

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
        sums = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [tensors[i] for i in places]
        )
        summed |= dict(zip(places, sums))
    return [summed[i] for i in range(len(tensors))]


def _row(optimizer, loss, norm, rate, scale) -> list[tf.Tensor]:
    """Returns what a step reports, in the order of the names; counts the step first."""
    row = [loss, norm, rate]
    if optimizer.skips:
        optimizer.note(loss, norm)
        counts = [optimizer.skipped.value, optimizer.bad.value]
        row += [tf.cast(count, tf.float32) for count in counts]
    return [*row, scale] if optimizer.scales else row


def share(data: config.Data, *, accumulation: int, replicas: int) -> int:
    """Returns the examples per replica and micro-batch.

    Raises:
        errors.UserError: a batch that does not divide, or not into pairs to mix.
    """
    batch, parts = data.batch_size, replicas * accumulation
    if batch % parts:
        raise errors.UserError(
            f"data.batch_size={batch}: not divisible by {replicas} replicas x "
            f"{accumulation} micro-batches; "
            f"near: {errors.near_multiples(batch, parts)}"
        )
    if mixup_cutmix.is_on(data) and batch // parts % 2:
        raise errors.UserError(
            f"data.batch_size={batch}: {batch // parts} images per replica and "
            "micro-batch, but data.mixup and data.cutmix mix pairs; "
            f"near: {errors.near_multiples(batch, 2 * parts)}"
        )
    return batch // parts


def draw_seed(
    seed: int, step: tf.Tensor, replica: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns int32 (2,) that differs for every step, and every replica if given."""
    key = tf.constant([seed, 0x5EED], tf.int32)
    for number in (step,) if replica is None else (step, replica):
        key = tf.random.experimental.stateless_fold_in(key, number)
    return key


def _gradients(
    state: train_state.TrainState, *, batch_size: int, accumulation: int
) -> Callable:
    """Makes (batch, seed, scale) -> loss and gradients of this
    replica's part of the batch.

    The gradients, not the loss, are multiplied by `scale`, unless it is None.
    """
    model, objective = state.model, state.objective
    variables, parts = state.variables, accumulation

    def micro(batch, seed, scale):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            losses, _ = objective(model, batch, seed)
            loss = tf.reduce_sum(losses) / batch_size
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
