"""Every knob of vit_tf, as typed dataclasses. No TensorFlow import.

A `Config` says what an experiment *is*; where data and runs lie and on which
devices it runs are flags of the tools, so the same config means the same
experiment on any machine. Values are refused when they are set, in one line.
"""

import dataclasses
import enum
from typing import Any, dataclass_transform

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

_CHECKED = pydantic.ConfigDict(
    extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False
)


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
def _typed(cls: Any) -> Any:  # what it makes is said to type checkers, which do not see
    return dataclass(cls, config=_CHECKED, kw_only=True)  # through pydantic's decorator


# Above what any machine of today holds: TensorFlow answers such a slip of the finger
# with a crash of its C++ runtime.
_MAX_PIXELS, _MAX_BATCH = 16_384, 1_048_576


class Pool(enum.StrEnum):
    """How tokens become one vector (section 3.1, Figure 9; MAP: big_vision)."""

    TOKEN = "token"  # a class token is prepended, its output is the image
    GAP = "gap"  # no class token, mean over all patch tokens
    MAP = "map"  # no class token, a learned probe attends to all patch tokens
    UNPOOLED = "unpooled"  # no class token, logits for every patch token
    TOKEN_UNPOOLED = "token_unpooled"  # the same with a class token in front


class Positions(enum.StrEnum):
    """How tokens know their place (Table 8; sincos2d is of the later releases)."""

    NOWHERE = "nowhere"  # not at all: a bag of patches
    LEARNED_1D = "1d"  # a vector for each place in raster order
    LEARNED_2D = "2d"  # half a vector for each column and for each row
    RELATIVE = "relative"  # attention knows the offset of query and key
    SINCOS_2D = "sincos2d"  # fixed sines and cosines of column and row


class PositionsAt(enum.StrEnum):
    """Where positions are added (Table 8's columns)."""

    STEM = "stem"  # once, before the first block
    EVERY = "every"  # before each block, learned for each
    SHARED = "shared"  # before each block, the same


class Crop(enum.StrEnum):
    """Training crops (ViT section 4.1, BiT section 3.3)."""

    INCEPTION = "inception"  # random area and aspect, resized to a square
    RANDOM = "random"  # resize to round(size * 448 / 384), random square crop
    RANDOM_160 = "random_160"  # size * 160 / 128: BiT's for images under 96 x 96
    RANDOM_SMALL = "random_small"  # shorter side to size * 448 / 384, random crop
    RESIZE = "resize"  # the whole image, resized to a square


class EvalCrop(enum.StrEnum):
    """Evaluation views (pre-training, transfer and few-shot use different ones)."""

    RESIZE = "resize"  # the whole image, resized to a square
    CENTRAL = "central"  # shorter side to round(size * 256 / 224), centre crop
    CENTRAL_448 = "central_448"  # shorter side to round(size * 448 / 384), centre
    CENTRAL_512 = "central_512"  # shorter side to round(size * 512 / 480), centre
    SQUARE_CENTRAL = "square_central"  # resize to round(size * 256 / 224), centre crop


class Task(enum.StrEnum):
    """What training minimises."""

    CLASSIFICATION = "classification"
    MASKED_PATCH = "masked_patch"  # without labels (B.1.2; masked_patches.py)


class Target(enum.StrEnum):
    """What masked patch prediction predicts of a patch."""

    MEAN_COLOR = "mean_color"  # its mean 3-bit colour, one of 512
    SHRUNK_COLORS = "shrunk_colors"  # the 3-bit colours of its 4 x 4 cells
    PIXELS = "pixels"  # all of it, by squared error


class Loss(enum.StrEnum):
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"  # summed over classes, as the authors do


class Rule(enum.StrEnum):
    """Update rules, with the authors' conventions (see optim.py)."""

    ADAM = "adam"
    SGD = "sgd"


class Schedule(enum.StrEnum):
    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    STEPS = "steps"  # a tenth from each 30, 60 and 90 % on (BiT-HyperRule)
    STEPS_JFT = "steps_jft"  # from 25, 57.5, 75 and 92.5 % (BiT's pre-training)


class Decay(enum.StrEnum):
    """Which parameters weight decay touches."""

    KERNELS = "kernels"
    ALL = "all"


class Unit(enum.StrEnum):
    STEPS = "steps"
    EPOCHS = "epochs"
    EXAMPLES = "examples"


class Keep(enum.StrEnum):
    """What the amount of a subset counts."""

    FRACTION = "fraction"  # of all training examples
    EXAMPLES = "examples"
    SHOTS = "shots"  # examples of every class


class Measure(enum.StrEnum):
    """What an evaluation gives of a split (see evaluators.py)."""

    ACCURACY = "accuracy"  # share whose likeliest class is the label, or one of them
    TOP5_ACCURACY = "top5_accuracy"  # share with a label among the five likeliest
    CLASS_ACCURACY = "class_accuracy"  # accuracy of each class, averaged over classes
    LOSS = "loss"  # what training minimises, without smoothing
    NLL = "nll"  # -log of the labels' soft-max probability, in nats
    ECE = "ece"  # expected calibration error
    PIXEL_ERROR = "pixel_error"  # root of the mean square, of masked patches


class Precision(enum.StrEnum):
    """Keras dtype policies. Variables are float32 in all of them."""

    FLOAT32 = "float32"
    MIXED_BFLOAT16 = "mixed_bfloat16"
    MIXED_FLOAT16 = "mixed_float16"  # with a dynamic loss scale (see optim.py)


class GradientDtype(enum.StrEnum):
    """How gradients are summed over replicas, or the first moment is stored."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"  # as the authors; all else is computed in float32


class Jit(enum.StrEnum):
    """XLA around forward and backward of each replica."""

    AUTO = "auto"  # on for GPU and TPU, off for CPU where it is slower
    ON = "on"
    OFF = "off"


@_typed
class Model:
    """The network. Number of classes and image size come from the data."""

    # The paper's notation, such as ViT-B/16, R50+ViT-B/16, R50x1 or Axial-ViT-B/32;
    # see models/build.py, and `python -m tools.benchmark --list`.
    variant: str = "ViT-B/16"
    # Free sizes: each replaces the Transformer's value; None keeps it.
    depth: int | None = Field(default=None, gt=0, le=1_024)
    # Of a ResNet: its root's, not 64.
    width: int | None = Field(default=None, gt=0, le=65_536)
    mlp_dim: int | None = Field(default=None, gt=0, le=1_048_576)
    num_heads: int | None = Field(default=None, gt=0, le=1_024)
    # None: what the variant has in the paper, a class token, and the mean over all
    # places in axial models and ResNets.
    pool: Pool | None = None
    positions: Positions = Positions.LEARNED_1D
    positions_at: PositionsAt = PositionsAt.STEM
    # A tanh hidden layer of the model's width before the head (section 3.1).
    pre_logits: bool = False
    head_bias: float = Field(default=0.0, ge=-1e6, le=1e6)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    # Share of images that skip a branch of the last block, from 0 at the first.
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)
    # Whether kept branches are divided by their share; see models/layers.py.
    stochastic_depth_rescale: bool = True
    # Computes the inside of every block again for the gradient: less memory, one
    # more forward pass.
    remat: bool = False


@_typed
class Subset:
    """A random part of the training split, read in place (data/subsets.py).

    Of each set, where several are mixed.
    """

    amount: float | None = Field(default=None, gt=0)  # of `unit`; None: everything
    unit: Keep = Keep.FRACTION
    # Chooses the part. Apart from train.seed, so that runs can share their examples.
    seed: int = Field(default=0, ge=0, lt=2**31)


@dataclasses.dataclass(frozen=True)
class View:
    """How evaluation, prediction and serving show an image to the model.

    Attributes:
        image_size: height and width in pixels.
        eval_crop: how an image of any shape becomes that square.
    """

    image_size: int
    eval_crop: EvalCrop = EvalCrop.RESIZE


@_typed
class Data:
    """What is read and how it is shown to the model."""

    # A row of data/datasets.py or a prepared data set; or several with weights, such
    # as photos*3+scans (data/mixture.py).
    name: str = "shapes"
    split: str = "train"  # a TFDS split expression
    subset: Subset = Field(default_factory=Subset)  # of `split`; of no evaluation
    image_size: int = Field(default=224, gt=0, le=_MAX_PIXELS)  # pixels, square
    # Global: over all replicas.
    batch_size: int = Field(default=4096, gt=0, le=_MAX_BATCH)
    crop: Crop = Crop.INCEPTION
    # Share of the image; of inception. Below a ten-thousandth is less than a pixel of
    # most images, and TensorFlow's crop fails where the share rounds to 0.
    min_crop_area: float = Field(default=0.05, ge=1e-4, le=1)
    flip: bool = True  # mirror half of the training images
    # RandAugment after the flip (AugReg, see data/augment.py): operations per image,
    # 0 switches it off. The paper has none; AugReg has 2.
    randaug_layers: int = Field(default=0, ge=0, le=8)
    # Strength of every operation. AugReg's go to 20; more is another operation,
    # not a stronger one (a byte has no more bits to keep).
    randaug_magnitude: int = Field(default=10, ge=0, le=20)
    # p of Beta(p, p), from which a step's mixture is drawn (data/mixing.py); 0
    # switches it off. With both, each step has one of them.
    mixup: float = Field(default=0.0, ge=0, le=1e4)
    cutmix: float = Field(default=0.0, ge=0, le=1e4)
    eval_crop: EvalCrop = EvalCrop.RESIZE

    @property
    def view(self) -> View:
        """The part that evaluation reads: size and crop, no augmentation."""
        return View(self.image_size, self.eval_crop)


@_typed
class Objective:
    task: Task = Task.CLASSIFICATION
    loss: Loss = Loss.SOFTMAX
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    target: Target = Target.MEAN_COLOR  # of masked patches
    corruption: float = Field(default=0.5, gt=0, le=1)  # share of masked patches


@_typed
class Optim:
    rule: Rule = Rule.ADAM
    lr: float = Field(default=1e-3, gt=0)
    schedule: Schedule = Schedule.COSINE
    warmup_steps: int = Field(default=0, ge=0, lt=2**31)
    # Where the linear schedule ends; the paper's runs end at 1e-5.
    linear_end: float = Field(default=1e-5, ge=0)
    # Decoupled and multiplied by the current learning rate (AugReg, section 3.3).
    weight_decay: float = Field(default=0.0, ge=0)
    decay: Decay = Decay.KERNELS
    # Global norm, after the gradients are summed over replicas. None: off.
    clip_norm: float | None = Field(default=None, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    moment_dtype: GradientDtype = GradientDtype.FLOAT32
    sum_dtype: GradientDtype = GradientDtype.FLOAT32  # of matrices' gradients
    # Decay of the Polyak average of the weights (0.9999 for Table 2). None: off.
    polyak: float | None = Field(default=None, gt=0, lt=1)


@_typed
class Train:
    # In units of `unit`. Hundreds of times the paper's longest run, in images.
    length: float = Field(default=10_000, gt=0, le=1e12)
    unit: Unit = Unit.STEPS
    seed: int = Field(default=0, ge=0, lt=2**31)
    # The replica's batch is cut into this many pieces, gradients are summed.
    accumulation: int = Field(default=1, gt=0, le=_MAX_BATCH)
    precision: Precision = Precision.FLOAT32
    jit_compile: Jit = Jit.AUTO
    # Steps per call from Python; raise it where a step takes milliseconds.
    steps_per_loop: int = Field(default=1, gt=0, le=1_000_000)
    log_every_steps: int = Field(default=50, gt=0, lt=2**31)
    checkpoint_every_steps: int = Field(default=1000, gt=0, lt=2**31)
    # The newest n stay.
    keep_checkpoints: int = Field(default=2, gt=0, lt=2**31)
    # Checkpoints of these steps stay as well. None: none does.
    keep_every_steps: int | None = Field(default=None, gt=0)
    # As does the best so far by an evaluated number, such as test/accuracy.
    keep_best: str | None = None
    # Steps of a run that may have a non-finite loss or gradient, and are skipped;
    # one more stops the run. 0: the first one does.
    skip_bad_steps: int = Field(default=0, ge=0)


@_typed
class FewShot:
    """Linear few-shot evaluation of the features (section 4.1; fewshot.py)."""

    # Sets with few-shot splits in data/datasets.py, or prepared folders; none: off.
    datasets: tuple[str, ...] = ()
    # Examples of each class.
    shots: tuple[pydantic.PositiveInt, ...] = Field(
        default=(1, 5, 10, 25), min_length=1
    )
    # Draws of the examples, averaged.
    num_seeds: int = Field(default=3, gt=0, le=10_000)
    # Weights of the ridge; of several, each set takes what is best on the others.
    l2: tuple[pydantic.PositiveFloat, ...] = Field(default=(1024.0,), min_length=1)
    # None: the run's own.
    image_size: int | None = Field(default=None, gt=0, le=_MAX_PIXELS)


@_typed
class Evals:
    """Evaluations during (every_steps) and after training."""

    splits: tuple[str, ...] = ("validation",)
    measures: tuple[Measure, ...] = (Measure.ACCURACY, Measure.LOSS)
    few_shot: FewShot = Field(default_factory=FewShot)
    every_steps: int | None = Field(default=None, gt=0)  # None: only at the end
    draw_every_steps: int | None = Field(default=None, gt=0)  # figures of the model
    batch_size: int = Field(default=256, gt=0, le=_MAX_BATCH)  # global


@_typed
class Config:
    """One run: what `tools.train --config=...` takes and config.json keeps."""

    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    objective: Objective = Field(default_factory=Objective)
    optim: Optim = Field(default_factory=Optim)
    train: Train = Field(default_factory=Train)
    evals: Evals = Field(default_factory=Evals)
    start_from: str | None = None  # a finished run's folder or a released .npz
