"""How fast do the models tell classes, and how large a batch fits?

The paper's Figure 12 (D.5): images per second of a TPUv3 core at inference, each point
the best over a wide range of batch sizes, and the largest batch that fits that core, both
at five image sizes and on logarithmic axes. Its numbers are in the plot only. It finds
that ViT is about as fast as similar ResNets, that its cost, quadratic in the number of
patches, is barely seen even at the largest, and that large ViTs need much less memory.

Nothing is trained, so there are no cells and no scales: the same command measures
whatever device is there: the first GPU, with JAX also the first TPU core (none was at
hand to try), or the CPU with all its cores.

    python -m tools.benchmark --what=figure12
    KERAS_BACKEND=jax python -m tools.benchmark --what=figure12

The second line needs JAX and no TensorFlow. Weights and images are bfloat16, on CPUs
float32. Cost: 40 points, of 5 minutes at most; the file is written after each, and the
same command goes on. `--models=ViT-B/32,R50x1 --sizes=64,128,224` is for CPUs.
`--json=experiments/results/figure12_speed/NAME.json` records.
"""

MODELS = (
    "R50x1",
    "R50x2",
    "ViT-B/32",
    "ViT-L/32",
    "ViT-B/16",
    "ViT-L/16",
    "ViT-H/14",
    "R152x4",
)
SIZES = (64, 128, 224, 384, 512)
