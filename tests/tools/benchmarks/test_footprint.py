"""What the training step costs besides time, measured in fresh processes."""

from tests.support import tiny
from tools.benchmarks import footprint
from vit_tf.models import build


def test_one_trace_and_one_all_reduce_of_every_gradient():
    cfg = tiny.make(train__accumulation=2, model__dropout=0.1)
    (found,) = footprint.measure({"": cfg}, num_classes=10).values()
    assert (found.traces, found.all_reduces) == (1, 1)
    model = build.build(cfg.model, num_classes=10, image_size=cfg.data.image_size)
    trained = sum(v.shape.num_elements() for v in model.trainable_variables)
    loss = 1
    assert found.reduced_mib * 2**20 == 4 * (trained + loss)
    assert found.first_step_seconds > 0 and found.peak_mib >= 0
