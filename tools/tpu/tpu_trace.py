"""The program of one TPU replica, traced on a machine without TPUs, as HLO.

The strategy is TensorFlow's own TPUStrategy; only its list of devices is invented,
so what `strategy.run` builds under it is what a TPU would get. Nothing here runs.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tools.tpu import private_apis

# Marks an all-to-all, which TensorFlow's wheel without TPU kernels cannot lower;
# its configuration is "split axis,concatenation axis,number of parts".
ALL_TO_ALL = "tf_all_to_all"

_HOST = "/job:localhost/replica:0/task:0/device:CPU:0"  # where variables are kept
_AROUND = (
    "TPUReplicateMetadata",
    "TPUCompilationResult",
    "TPUReplicatedInput",
    "TPUReplicatedOutput",
)


class TraceOnly(private_apis.TPUStrategyV2):
    """A TPUStrategy over `replicas` cores that are not there."""

    def __init__(self, replicas: int):
        tf.distribute.Strategy.__init__(self, _Extended(self, replicas))
        self._enable_packed_variable_in_eager_mode = False
        self.graph = None  # in which `run` was last called

    def run(self, fn, args=(), kwargs=None, options=None):
        self.graph = tf.compat.v1.get_default_graph()
        return super().run(fn, args=args, kwargs=kwargs, options=options)


class _Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
    def __init__(self, replicas: int):
        self._replicas = replicas

    def get_tpu_system_metadata(self):
        names = [_HOST.replace("CPU:0", f"TPU:{i}") for i in range(self._replicas)]
        devices = [tf.config.LogicalDevice(name, "TPU") for name in names]
        return private_apis.TPUSystemMetadata(
            self._replicas, 1, self._replicas, None, devices
        )


class _Extended(private_apis.TPUExtended):
    def __init__(self, container, replicas: int):
        super().__init__(container, _Resolver(replicas))
        self._tpu_devices = np.array([[_HOST]] * replicas, dtype=object)
        self._host_device = _HOST

    def _create_variable(self, next_creator, **kwargs):
        made = []

        def once(**settings):
            # One array stands for the copies of all replicas, which are equal.
            if not made:
                made.append(next_creator(**settings))
            return made[0]

        return super()._create_variable(once, **kwargs)


@dataclasses.dataclass(frozen=True)
class Program:
    """What one replica runs in one step.

    Attributes:
        hlo: serialized HLO module. Its parameters: `inputs`, then `variables`. Its
            results: what the step returned, then the variables that it wrote.
        inputs: shape and type of every tensor that comes from outside.
        replica_ids: positions in `inputs` that hold the replica's number.
        variables: handles of the variables, in the order of the parameters.
    """

    hlo: bytes
    inputs: Sequence[tf.TensorSpec]
    replica_ids: Sequence[int]
    variables: Sequence[tf.Tensor]


def program(strategy: TraceOnly, trace: Callable[[], Any]) -> Program:
    """Returns the program that `trace` hands to `strategy.run`, of
    which it makes one call.

    Args:
        strategy: under whose scope the variables were made.
        trace: traces a tf.function, `f.get_concrete_function(...)`; the call of
            `strategy.run` may stand in a loop of it.
    """
    with _lowerable_collectives():
        traced = trace()  # kept alive: its graphs are read below
        cut = _Cluster(strategy.graph)
        replica = cut.function()
        text = replica.experimental_get_compiler_ir(*cut.inputs)
        hlo = text(stage="hlo_serialized")
    variables = replica.get_concrete_function(*cut.inputs).captured_inputs
    del traced
    return Program(hlo, cut.inputs, cut.replica_ids, variables)


class _Cluster:
    """The operations of one replica, cut out of the graph that replicates them."""

    def __init__(self, graph: tf.Graph):
        self.operations = {op.name: op for op in graph.get_operations()}
        tagged = [o for o in self.operations.values() if "_tpu_replicate" in _marks(o)]
        if len({op.get_attr("_tpu_replicate") for op in tagged}) != 1:
            raise ValueError(f"need one call of strategy.run, got {len(tagged)} marks")
        self.inside = {op.name for op in tagged if op.type not in _AROUND}
        self.results = [
            op.inputs[0].name
            for op in self.operations.values()
            if op.type == "TPUReplicatedOutput"
        ]
        self.definition = self._cut(graph.as_graph_def())
        # Name of an outside tensor -> what stands for it inside `function`.
        self.arguments: dict[str, int] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.captured: dict[str, tf.Tensor] = {}
        self.inputs: list[tf.TensorSpec] = []
        self.replica_ids: list[int] = []
        for name in sorted(self.inside):
            for tensor in self.operations[name].inputs:
                if tensor.op.name not in self.inside:
                    self._admit(tensor, graph)

    def _cut(self, whole: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
        part = tf.compat.v1.GraphDef(versions=whole.versions, library=whole.library)
        for node in whole.node:
            if node.name not in self.inside:
                continue
            kept = [
                name
                for name in node.input
                if not name.startswith("^") or name[1:] in self.inside
            ]
            node.device = ""
            for mark in ("_class", "_tpu_replicate"):
                node.attr.pop(mark, None)
            del node.input[:]
            node.input.extend(kept)
            part.node.add().CopyFrom(node)
        return part

    def _admit(self, tensor: tf.Tensor, graph: tf.Graph) -> None:
        """Finds out what the first replica gets for a tensor from outside."""
        name = tensor.name
        if name in {**self.arguments, **self.constants, **self.captured}:
            return
        replicated = None
        while tensor.op.type in ("TPUReplicatedInput", "Identity"):
            if tensor.op.type == "TPUReplicatedInput":
                replicated = tensor.op
            tensor = tensor.op.inputs[0]
        source = _outermost(tensor, graph)
        if isinstance(source, private_apis.EagerTensor):
            self.captured[name] = source
        elif tensor.op.type == "Const":
            value = tf.make_ndarray(tensor.op.get_attr("value"))
            if replicated is not None and len({i.name for i in replicated.inputs}) > 1:
                self.replica_ids.append(self._argue(name, tensor))
            else:
                self.constants[name] = value
        else:
            self._argue(name, tensor)

    def _argue(self, name: str, tensor: tf.Tensor) -> int:
        self.arguments[name] = position = len(self.inputs)
        self.inputs.append(tf.TensorSpec(tensor.shape, tensor.dtype))
        return position

    def function(self) -> tf.types.experimental.PolymorphicFunction:
        """Returns the cluster as a function of `inputs`, for XLA to compile."""

        @tf.function(jit_compile=True, autograph=False)
        def replica(*values):
            given = {name: values[i] for name, i in self.arguments.items()}
            given |= {n: tf.constant(v) for n, v in self.constants.items()}
            graph = tf.compat.v1.get_default_graph()
            given |= {n: graph.capture(v) for n, v in self.captured.items()}
            return tf.graph_util.import_graph_def(
                self.definition, input_map=given, return_elements=self.results, name=""
            )

        return replica


def _marks(operation: tf.Operation):
    return operation.node_def.attr


def _outermost(tensor: tf.Tensor, graph: tf.Graph) -> tf.Tensor:
    """Finds what a graph inside other graphs took a tensor from."""
    while isinstance(graph, private_apis.FuncGraph):
        outside = {id(inner): outer for outer, inner in graph.captures}
        if id(tensor) not in outside:
            break
        tensor, graph = outside[id(tensor)], graph.outer_graph
    return tensor


@contextlib.contextmanager
def _lowerable_collectives() -> Iterator[None]:
    """Rewrites two operations of TPUs so that TensorFlow lowers
    them without TPU kernels.

    The sum over replicas becomes the HLO all-reduce that it is on a TPU as well.
    """

    def cross_replica_sum(x, group_assignment=None, name=None):
        if group_assignment is None:
            number = private_apis.number_of_shards()
            group_assignment = [list(range(number))]
        return private_apis.xla_ops.xla_all_reduce(
            x, group_assignment, reduce_op="Add", mode="CrossReplica", name=name
        )

    def all_to_all(
        x, concat_dimension, split_dimension, split_count, group_assignment=None
    ):
        if group_assignment is not None:
            raise ValueError("all-to-all within groups: not written")
        x = tf.convert_to_tensor(x)
        setting = f"{split_dimension},{concat_dimension},{split_count}"
        return private_apis.xla_ops.xla_custom_call_v2(
            [x], ALL_TO_ALL, setting, False, [x.dtype], [x.shape]
        )[0]

    with private_apis.replacing_collectives(
        cross_replica_sum=cross_replica_sum, all_to_all=all_to_all
    ):
        yield
