"""How well does a pre-trained ViT do on your own images?

Table 4's fine-tuning for any prepared data set, with the paper's setting for sets it
does not know (VTAB's row: 2,500 steps, learning rate 0.01). The argument names the
model:

    python -m tools.prepare_data --folder=photos --name=photos
    python -m tools.train --config=experiments/finetune.py:ViT-B/16 \
        --config.data.name=photos --config.start_from=ViT-B_16.npz \
        --workdir=runs/photos

On a laptop ask for less: --config.data.image_size=224 --config.data.batch_size=32
--config.train.length=500 --config.optim.warmup_steps=50.
"""

from vit_tf import config
from vit_tf.recipes import paper


def get_config(argument: str | None = None) -> config.Config:
    """Fine-tunes the variant in `argument`; data and start come as overrides."""
    cfg = paper.finetune(argument or "ViT-B/16", "cifar10", start_from=None, lr=0.01)
    cfg.data.name = "photos"
    cfg.train.length = 2500
    cfg.train.precision = config.Precision.FLOAT32
    cfg.train.steps_per_loop = 1
    cfg.optim.warmup_steps = 200
    cfg.evals.splits = ("validation",)
    return cfg
