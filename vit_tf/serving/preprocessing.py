"""How a caller prepares images for a model that decodes no files: as facts, as text.

The same pixels that evaluation shows the model, see `data.images.evaluation_view`; to
resize in another way changes some answers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from vit_tf import config, identity
from vit_tf.data import images

SCALE = 127.5  # pixels in [0, 255] -> (x - SCALE) / SCALE in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Holds the steps from a decoded image to what the model takes.

    Attributes:
        image_size: pixels of the square that the model takes.
        resize: 'squeeze' makes a square of the whole image, 'shorter_side' keeps its
            aspect ratio.
        resize_to: pixels of that square, or of the shorter side.
        interpolation: 'bilinear' with half-pixel centres and no antialiasing, or
            'area', the mean of the pixels below each new one.
    """

    image_size: int
    resize: str
    resize_to: int
    interpolation: str

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns what `facts` gave."""
        return cls(
            **{field.name: facts[field.name] for field in dataclasses.fields(cls)}
        )

    def facts(self) -> dict[str, identity.Json]:
        """Returns the steps ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "antialias": False,
            "crop": "center" if self.resize_to != self.image_size else None,
            "channels": "RGB",
            "layout": "NHWC",
            "dtype": "float32",
            "mean": [SCALE] * 3,
            "std": [SCALE] * 3,
        }

    def text(self) -> str:
        """Returns the steps as Markdown."""
        size, to = self.image_size, self.resize_to
        resize = (
            f"Resize it to {to} x {to} pixels, whatever its shape"
            if self.resize == "squeeze"
            else f"Resize its shorter side to {to} pixels and keep the aspect ratio"
        )
        how = (
            "bilinear with half-pixel centres and **without antialiasing** "
            "(`tf.image.resize`, OpenCV's `INTER_LINEAR`, PyTorch's `interpolate` with "
            "`mode='bilinear'`). PIL and, by default, torchvision smooth an image that "
            "they make smaller: the pixels are others then, and some answers too"
            if self.interpolation == "bilinear"
            else "by area: each new pixel is the mean of those below it "
            "(`tf.image.resize` with `method='area'`, OpenCV's `INTER_AREA`)"
        )
        steps = [
            "Decode the image to RGB, without its EXIF rotation.",
            f"{resize}, {how}.",
        ]
        if to != size:
            steps.append(f"Cut out the {size} x {size} pixels in the middle.")
        steps.append(
            f"Scale the pixels: `(x - {SCALE}) / {SCALE}`, float32 in [-1, 1]."
        )
        steps.append(f"Stack to (batch, {size}, {size}, 3).")
        return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def recipe(view: config.View) -> Recipe:
    """Returns how images become the view that a model is shown."""
    size, margin = view.image_size, images.central_margin(view)
    if margin is not None:
        return Recipe(size, "shorter_side", margin, "area")
    enlarged = view.eval_crop is config.EvalCrop.SQUARE_CENTRAL
    to = round(size * 256 / 224) if enlarged else size
    return Recipe(size, "squeeze", to, "bilinear")
