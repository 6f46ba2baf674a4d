"""The Vision Transformer (paper sections 3.1 and 3.2), in keras.ops only.

The path of a variable below its model is the name of that array in the
authors' released files, such as `Transformer/encoderblock_0/LayerNorm_0/scale`:
its layers are named so that `models/weights.py` needs no table.
"""

import keras
from keras import ops

from vit_tf import config
from vit_tf.models import layers

# What a call with `record={}` leaves in that dict. T tokens: the class token, if
# there is one, then the patches in raster order.
PATCHES = "patches"  # (batch, patches, width), the stem's output
POSITIONED = "positioned"  # (batch, T, width), class token and positions added
BLOCK = "block_{}"  # (batch, T, width), output of encoder block i from 0
ATTENTION = "attention_{}"  # (batch, heads, T, T) float32, rows sum to 1
ENCODED = "encoded"  # (batch, T, width), after the last LayerNorm
POOLED = "pooled"  # (batch, width) float32
PRE_LOGITS = "pre_logits"  # (batch, width) float32, only with that layer
LOGITS = "logits"  # (batch, classes) float32, only with classes


@keras.saving.register_keras_serializable("vit_tf")
class VisionTransformer(keras.Model):
    """ViT with a class token or global average pooling.

    Four verbs, each a joint where callers may enter; `call` composes them:
    `head(pool(encode(embed(images))))`. Every variable exists once the
    constructor returns. Initialisation is that of the authors' code and depends
    only on `keras.utils.set_random_seed`.

    Under mixed_bfloat16 the variables, softmax, LayerNorm, and everything from
    pooling on are float32.

    Args:
        patch_size: pixels along one side of a patch.
        width: of a token.
        depth: number of encoder blocks.
        mlp_dim: hidden width of the MLPs.
        num_heads: heads of each self-attention; divides `width`.
        num_classes: width of the logits; 0: no last layer, features come out.
        image_size: pixels along one side; a multiple of `patch_size`.
        pool: 'token' or 'gap', see `config.Pool`.
        pre_logits: a tanh layer of the same width before the last one, as in
            the paper's pre-training (section 3.1).
        head_bias: initial value of the last bias.
        dropout: share dropped after positions, attention and each MLP matrix.
        attention_dropout: share of attention weights dropped.

    Raises:
        config.Refused: sizes that do not divide.
    """

    def __init__(
        self,
        *,
        patch_size,
        width,
        depth,
        mlp_dim,
        num_heads,
        num_classes,
        image_size,
        pool="token",
        pre_logits=False,
        head_bias=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_sizes(image_size, patch_size, width, num_heads)
        self.patch_size, self.image_size = patch_size, image_size
        self.width, self.depth = width, depth
        self.mlp_dim, self.num_heads = mlp_dim, num_heads
        self.num_classes, self.head_bias = num_classes, head_bias
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.pooling, self.has_pre_logits = config.Pool(pool), pre_logits
        self.has_class_token = self.pooling is config.Pool.TOKEN
        self.grid = image_size // patch_size  # patches along one side
        self.num_tokens = self.grid**2 + self.has_class_token
        self._lay_out()
        self.build()

    def _lay_out(self):
        """Makes the layers, in the order in which initial values are drawn."""
        policy, sizes = self.dtype_policy, (self.width, self.mlp_dim, self.num_heads)
        rates = (self.dropout, self.attention_dropout)
        self.embedding = layers.PatchEmbedding(
            self.patch_size, self.width, dtype=policy, name="embedding"
        )
        self.positions = layers.PositionEmbedding(
            self.num_tokens, self.width, dtype=policy, name="posembed_input"
        )
        self.blocks = [
            layers.EncoderBlock(*sizes, *rates, dtype=policy, name=f"encoderblock_{i}")
            for i in range(self.depth)
        ]
        self.encoder_norm = layers.LayerNorm(
            self.width, dtype=policy, name="encoder_norm"
        )
        self.pre_logits = self.classifier = None
        if self.has_pre_logits:
            self.pre_logits = layers.Linear(
                (self.width,),
                (self.width,),
                kernel_initializer="lecun_normal",
                dtype="float32",
                name="pre_logits",
            )
        if self.num_classes:
            self.classifier = layers.Linear(
                (self.width,),
                (self.num_classes,),
                kernel_initializer="zeros",
                bias_initializer=keras.initializers.Constant(self.head_bias),
                dtype="float32",
                name="head",
            )

    def build(self, input_shape=None):
        if self.built:  # by the constructor; Keras asks again when it loads
            return
        if self.has_class_token:
            self.cls = self.add_weight(
                shape=(1, 1, self.width), initializer="zeros", name="cls"
            )
        self.embedding.build()
        with keras.name_scope("Transformer"):
            for layer in (self.positions, *self.blocks, self.encoder_norm):
                layer.build()
        for layer in (self.pre_logits, self.classifier):
            if layer is not None:
                layer.build()

    def __call__(self, images, *, training=None, seed=None, record=None):
        """Images to logits.

        Args:
            images: (batch, image_size, image_size, 3) in [-1, 1].
            training: whether dropout draws.
            seed: two int32; every draw is a function of them and of the place
                where it happens. Needed when training with dropout.
            record: a dict that receives the intermediates named in this file.

        Returns:
            Logits (batch, num_classes) float32, or without classes the features
            (batch, width) float32.

        Raises:
            config.Refused: images of another size; no seed for dropout.
        """
        # Asked here, because Keras wraps what `call` raises in several lines.
        self._check_images(images)
        self._check_seed(training, seed)
        # Keras copies a dict that it is handed; it leaves a holder alone.
        held = None if record is None else _Held(record)
        return super().__call__(images, training=training, seed=seed, record=held)

    def call(self, images, training=False, seed=None, record=None):
        record = record.value if isinstance(record, _Held) else record
        how = {"training": training, "seed": seed, "record": record}
        tokens = self.encode(self.embed(images, **how), **how)
        return self.head(self.pool(tokens, record=record), record=record)

    def embed(self, images, *, training=False, seed=None, record=None):
        """Images (batch, size, size, 3) to tokens (batch, T, width) with positions."""
        self._check_images(images)
        keys = self._dropout_keys(training, seed)
        x = _note(record, PATCHES, self.embedding(images))
        if self.has_class_token:
            cls = ops.cast(self.cls, x.dtype)
            cls = ops.broadcast_to(cls, (ops.shape(x)[0], 1, self.width))
            x = ops.concatenate([cls, x], axis=1)
        x = _note(record, POSITIONED, self.positions(x))
        mine = None if keys is None else keys[self.depth]
        return layers.dropout(x, self.dropout, mine, 0)

    def encode(self, tokens, *, training=False, seed=None, record=None):
        """Tokens (batch, T, width) through all blocks and the last LayerNorm."""
        keys = self._dropout_keys(training, seed)
        for i, block in enumerate(self.blocks):
            mine = None if keys is None else keys[i]
            tokens, weights = block(tokens, keys=mine)
            _note(record, BLOCK.format(i), tokens)
            _note(record, ATTENTION.format(i), weights)
        return _note(record, ENCODED, self.encoder_norm(tokens))

    def pool(self, tokens, *, record=None):
        """Encoded tokens (batch, T, width) to features (batch, width) float32."""
        if self.has_class_token:
            return _note(record, POOLED, ops.cast(tokens[:, 0], "float32"))
        return _note(record, POOLED, ops.mean(ops.cast(tokens, "float32"), axis=1))

    def head(self, features, *, record=None):
        """Features (batch, width) to logits; layers that the model lacks are skipped."""
        if self.pre_logits is not None:
            features = ops.tanh(self.pre_logits(features))
            _note(record, PRE_LOGITS, features)
        if self.classifier is None:
            return features
        return _note(record, LOGITS, self.classifier(features))

    def _dropout_keys(self, training, seed):
        """Keys for all places that draw, (depth + 1, SITES, 2); None: no draws.

        All are hashed from `seed` at once. Adding numbers to the seed instead
        would give step n the masks of step n + 1 a layer further on.
        """
        self._check_seed(training, seed)
        if not self._draws(training):
            return None
        shape = (self.depth + 1, layers.SITES, 2)
        return keras.random.randint(
            shape, 0, 2**31 - 1, "int32", seed=layers.Given(seed)
        )

    def _draws(self, training):
        return bool(training and (self.dropout or self.attention_dropout))

    def _check_seed(self, training, seed):
        if self._draws(training) and seed is None:
            raise config.Refused(
                f"dropout {self.dropout}, attention_dropout {self.attention_dropout}: "
                "got no seed, need seed=two int32 numbers that change every step"
            )

    def _check_images(self, images):
        size, shape = self.image_size, tuple(images.shape)
        if len(shape) != 4 or shape[1:] != (size, size, 3):
            raise config.Refused(
                f"images: got shape {shape}, need (batch, {size}, {size}, 3): resize "
                "them, or build the model with another image_size"
            )
        kind = keras.backend.standardize_dtype(images.dtype)
        if not keras.backend.is_float_dtype(kind):
            raise config.Refused(
                f"images: got {kind}, need floats in [-1, 1]: (images - 127.5) / 127.5"
            )

    def get_config(self):
        return super().get_config() | {
            "patch_size": self.patch_size,
            "width": self.width,
            "depth": self.depth,
            "mlp_dim": self.mlp_dim,
            "num_heads": self.num_heads,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "pool": self.pooling.value,
            "pre_logits": self.has_pre_logits,
            "head_bias": self.head_bias,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
        }


class _Held:
    """Carries a dict through Keras, which would copy a bare one."""

    def __init__(self, value):
        self.value = value


def _note(record, name, value):
    """`value`, after leaving it in `record` under `name` if there is a record."""
    if record is not None:
        record[name] = value
    return value


def _check_sizes(image_size, patch_size, width, num_heads):
    if image_size % patch_size:
        below = image_size // patch_size * patch_size
        near = [size for size in (below, below + patch_size) if size]
        raise config.Refused(
            f"image size {image_size}: not a multiple of the patch size {patch_size}; "
            f"the nearest that are: {', '.join(map(str, near))}"
        )
    if width % num_heads:
        raise config.Refused(
            f"width {width}: not a multiple of num_heads {num_heads}; "
            "change one of the two"
        )
