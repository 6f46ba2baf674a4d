"""The Vision Transformer (paper sections 3.1 and 3.2) and its hybrids, in keras.ops.

The path of a variable below its model is the name of that array in the
authors' released files, such as `Transformer/encoderblock_0/LayerNorm_0/scale`:
its layers are named so that `models/weights.py` needs no table.
"""

import keras
from keras import ops

from vit_tf import config, errors
from vit_tf.models import encoder, layers, network, positions, resnet

# What a call with `record={}` leaves in that dict, beside the names in network.py.
# T tokens: the class token, if there is one, then the patches in raster order.
STEM = "stem"  # (batch, rows, columns, channels), of hybrids: the ResNet's map
PATCHES = "patches"  # (batch, patches, width), the embedding's output
POSITIONED = "positioned"  # (batch, T, width), class token and positions added
BLOCK = "block_{}"  # (batch, T, width), output of encoder block i from 0
ATTENTION = "attention_{}"  # (batch, heads, T, T) float32, rows sum to 1
ENCODED, POOLED = network.ENCODED, network.POOLED
PRE_LOGITS, LOGITS = network.PRE_LOGITS, network.LOGITS

_WITH_CLASS_TOKEN = (config.Pool.TOKEN, config.Pool.TOKEN_UNPOOLED)
_UNPOOLED = (config.Pool.UNPOOLED, config.Pool.TOKEN_UNPOOLED)


@keras.saving.register_keras_serializable("vit_tf")
class VisionTransformer(network.Network):
    """ViT, hybrid or Axial-ViT, with every way to place and to pool its tokens.

    Initialisation is that of the authors' code and depends only on
    `keras.utils.set_random_seed`. Under mixed_bfloat16 the variables, softmax, all
    norms, and everything from pooling on are float32.

    Args:
        patch_size: pixels along one side of a patch; of a hybrid: positions of the
            ResNet's map.
        width: of a token.
        depth: number of encoder blocks; each is two in an axial model.
        mlp_dim: hidden width of the MLPs.
        num_heads: heads of each self-attention; divides `width`.
        num_classes: width of the logits; 0: no last layer, features come out.
        image_size: pixels along one side; a multiple of `token_stride`.
        pool: see `config.Pool`.
        positions, positions_at: see `config.Positions` and `config.PositionsAt`.
        pre_logits: a tanh layer of the same width before the last one, as in
            the paper's pre-training (section 3.1).
        head_bias: initial value of the last bias.
        dropout: share dropped after positions, attention and each MLP matrix.
        attention_dropout: share of attention weights dropped.
        stochastic_depth: share of images that skip a branch of the last block,
            growing linearly from 0 at the first (AugReg; the paper has none).
        stochastic_depth_rescale: see `layers.drop_branch`.
        stem: units in each stage of the hybrid's ResNet, () for its root alone; None:
            patches of the image (paper section 3.1, 'Hybrid Architecture').
        axial: each block attends along the rows, then in a block of its own along
            the columns (D.6). The paper leaves the class token open: such a model
            takes none.
        remat: whether the inside of each block is computed again for the gradient.

    Attributes:
        token_stride: pixels from one token to the next.
        grid: tokens along one side of the image.
        num_tokens: with the class token.
        num_blocks: encoder blocks; those of an axial model count each.

    Raises:
        errors.UserError: sizes that do not divide, settings that exclude each other.
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
        positions="1d",
        positions_at="stem",
        pre_logits=False,
        head_bias=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth=0.0,
        stochastic_depth_rescale=True,
        stem=None,
        axial=False,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.patch_size, self.image_size = patch_size, image_size
        self.width, self.depth = width, depth
        self.mlp_dim, self.num_heads = mlp_dim, num_heads
        self.num_classes, self.head_bias = num_classes, head_bias
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.stochastic_depth = stochastic_depth
        self.stochastic_depth_rescale = stochastic_depth_rescale
        self.draws = {
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "stochastic_depth": stochastic_depth,
        }
        self.stem, self.axial, self.remat = stem, axial, remat
        if stem is not None:
            self.stem = tuple(stem)
        self.pooling, self.has_pre_logits = config.Pool(pool), pre_logits
        self.position_kind = config.Positions(positions)
        self.positions_at = config.PositionsAt(positions_at)
        self.has_class_token = self.pooling in _WITH_CLASS_TOKEN
        self.pools = self.pooling not in _UNPOOLED
        self.token_stride = patch_size * (
            1 if stem is None else resnet.stem_ratio(self.stem)
        )
        self._check_sizes()
        self.grid = image_size // self.token_stride
        self.num_tokens = self.grid**2 + self.has_class_token
        self.num_blocks = depth * (2 if axial else 1)
        self._lay_out()
        self.build()

    def _lay_out(self):
        """Makes the layers, in the order in which initial values are drawn."""
        policy = self.dtype_policy
        self.stem_layers, channels = [], 3
        if self.stem is not None:
            self.stem_layers = resnet.stem_layers(self.stem, dtype=policy)
            channels = resnet.stem_channels(self.stem)
        self.embedding = layers.PatchEmbedding(
            self.patch_size, self.width, channels, dtype=policy, name="embedding"
        )
        # Number i goes to the tokens that enter block i.
        self.positions = positions.layers_for(
            self.position_kind,
            self.positions_at,
            grid=self.grid,
            width=self.width,
            class_token=self.has_class_token,
            depth=self.num_blocks,
            dtype=policy,
        )
        self.blocks = [self._block(i) for i in range(self.num_blocks)]
        self.encoder_norm = layers.LayerNorm(
            self.width, dtype=policy, name="encoder_norm"
        )
        self.map_head = self.pre_logits = self.classifier = None
        if self.pooling is config.Pool.MAP:
            self.map_head = encoder.MapHead(
                self.width,
                self.mlp_dim,
                self.num_heads,
                dtype="float32",
                name="MAPHead_0",
            )
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

    def _block(self, i):
        relative = self.position_kind is config.Positions.RELATIVE
        last = max(self.num_blocks - 1, 1)
        return encoder.EncoderBlock(
            self.width,
            self.mlp_dim,
            self.num_heads,
            self.dropout,
            self.attention_dropout,
            drop_rate=self.stochastic_depth * i / last,
            rescale=self.stochastic_depth_rescale,
            relative_tokens=self.num_tokens if relative else None,
            axis=("rows", "columns")[i % 2] if self.axial else None,
            dtype=self.dtype_policy,
            name=f"encoderblock_{i}",
        )

    def build(self, input_shape=None):
        if self.built:  # by the constructor; Keras asks again when it loads
            return
        if self.has_class_token:
            self.cls = self.add_weight(
                shape=(1, 1, self.width), initializer="zeros", name="cls"
            )
        for layer in (*self.stem_layers, self.embedding):
            layer.build()
        with keras.name_scope("Transformer"):
            # A layer that several blocks share is there once.
            for layer in dict.fromkeys(self.positions):
                layer.build()
            for layer in (*self.blocks, self.encoder_norm):
                layer.build()
        for layer in (self.map_head, self.pre_logits, self.classifier):
            if layer is not None:
                layer.build()

    def forward(
        self, images, *, training=False, seed=None, record=None, run_blocks=None
    ):
        """Computes the whole forward pass (section 3.1,
        equations 1 to 4); see `Network`.

        Args:
            images: (batch, size, size, 3) in [-1, 1].
            training: whether dropout draws.
            seed: two int32, needed where dropout draws.
            record: a dict that receives the intermediates named in this file.
            run_blocks: (batch, T, width) to the same, in the place of the blocks:
                for serving, which has them in a form that its runtime fuses.
        """
        how = {"training": training, "seed": seed, "record": record}
        patches = self.embed_patches(images, training=training, record=record)
        tokens = self.place(patches, **how)  # (batch, T, width), equation 1
        if run_blocks is None:
            tokens = self.run_blocks(tokens, **how)  # (batch, T, width), 2 and 3
        else:
            tokens = run_blocks(tokens)

        # Equation 4. Where nobody reads the other tokens, the class token alone is
        # normed: a TPU would keep a float32 copy of all. Its token axis goes before
        # the norm: kept at length 1 it turns the layout of all tokens (docs/scale.md).
        # (The loop's float32 stays as it is, to the last bit.)
        reads_one = self.pooling is config.Pool.TOKEN and record is None
        if reads_one and (self.compute_dtype != "float32" or run_blocks is not None):
            pooled = ops.cast(self.encoder_norm(tokens[:, 0]), "float32")
        else:
            encoded = network.note(record, ENCODED, self.encoder_norm(tokens))
            pooled = self.pool(encoded, record=record)  # (batch, width) float32

        features = pooled
        if self.pre_logits is not None:
            hidden = ops.tanh(self.pre_logits(pooled))
            features = network.note(record, PRE_LOGITS, hidden)
        if self.classifier is None:
            return features, features
        return features, network.note(record, LOGITS, self.classifier(features))

    def embed(self, images, *, training=False, seed=None, record=None):
        """Maps images (batch, size, size, 3) to tokens (batch,
        T, width) with positions.
        """
        patches = self.embed_patches(images, training=training, record=record)
        return self.place(patches, training=training, seed=seed, record=record)

    def embed_patches(self, images, *, training=False, record=None):
        """Maps images to patch embeddings (batch, patches, width): equation 1's E x."""
        self.check_images(images)
        x = images
        if self.stem is not None:
            run = network.checkpointed(self._run_stem, self.remat and training)
            x = network.note(record, STEM, run(ops.cast(x, self.compute_dtype)))
        return network.note(record, PATCHES, self.embedding(x))

    def place(self, x, *, training=False, seed=None, record=None):
        """Maps patch embeddings to tokens (batch, T, width): class token and positions."""
        keys = self._keys(training, seed)
        if self.has_class_token:
            cls = ops.cast(self.cls, x.dtype)
            cls = layers.for_each_image(cls, x)
            x = ops.concatenate([cls, x], axis=1)
        if self.positions:
            x = self.positions[0](x)
        x = network.note(record, POSITIONED, x)
        mine = None if keys is None else keys[self.num_blocks]
        return layers.dropout(x, self.dropout, mine, 0)

    def _run_stem(self, images):
        return resnet.run_stem(self.stem_layers, images)

    def run_blocks(self, tokens, *, training=False, seed=None, record=None):
        """Tokens (batch, T, width) through all blocks: equations 2 and 3."""
        keys = self._keys(training, seed)
        for i, block in enumerate(self.blocks):
            if 0 < i < len(self.positions):
                tokens = self.positions[i](tokens)
            mine = None if keys is None else keys[i]
            if record is None:
                tokens = self._run_block(block, tokens, mine, training)
                continue
            tokens, weights = block(tokens, keys=mine)
            network.note(record, BLOCK.format(i), tokens)
            network.note(record, ATTENTION.format(i), block.full_weights(weights))
        return tokens

    def _run_block(self, block, tokens, keys, training):
        # Without the weights, which nobody asked for and a gradient would keep.
        def run(x):
            return block(x, keys=keys)[0]

        return network.checkpointed(run, self.remat and training)(tokens)

    def encode(self, tokens, *, training=False, seed=None):
        """Tokens (batch, T, width) through all blocks and the last LayerNorm."""
        return self.encoder_norm(self.run_blocks(tokens, training=training, seed=seed))

    def pool(self, tokens, *, record=None):
        """Pools encoded tokens (batch, T, width) to features (batch, width) float32.

        An unpooled model gives all its tokens, (batch, T, width) float32.
        """
        tokens = ops.cast(tokens, "float32")
        if not self.pools:
            return tokens
        pooled = {
            config.Pool.TOKEN: lambda: tokens[:, 0],
            config.Pool.GAP: lambda: ops.mean(tokens, axis=1),
            config.Pool.MAP: lambda: self.map_head(tokens),
        }[self.pooling]()
        return network.note(record, POOLED, pooled)

    def _keys(self, training, seed):
        """Keys for all places that draw, (blocks + 1, SITES, 2); None: no draws.

        All are hashed from `seed` at once. Adding numbers to the seed instead
        would give step n the masks of step n + 1 a layer further on.
        """
        self.check_seed(training, seed)
        if not self.is_drawing(training):
            return None
        shape = (self.num_blocks + 1, layers.SITES, 2)
        return keras.random.randint(
            shape, 0, 2**31 - 1, "int32", seed=layers.Given(seed)
        )

    def _check_sizes(self):
        size, stride = self.image_size, self.token_stride
        if size % stride:
            what = "patch size" if self.stem is None else "total stride"
            raise errors.UserError(
                f"image size {size}: not a multiple of the {what} {stride}; "
                f"the nearest that are: {errors.near_multiples(size, stride)}"
            )
        if self.width % self.num_heads:
            raise errors.UserError(
                f"width {self.width}: not a multiple of num_heads {self.num_heads}; "
                "change one of the two"
            )
        if self.axial and self.has_class_token:
            raise errors.UserError(
                f"model.pool={self.pooling.value}: axial attention has no place for a "
                "class token on its grid; use pool=gap, map or unpooled"
            )
        if self.axial and self.position_kind is config.Positions.RELATIVE:
            raise errors.UserError(
                "model.positions=relative: its offsets run over all tokens, axial "
                "attention sees one row or column; use positions=1d or 2d"
            )

    def get_config(self):
        plain = (
            "patch_size width depth mlp_dim num_heads num_classes image_size head_bias "
            "dropout attention_dropout stochastic_depth stochastic_depth_rescale stem "
            "axial remat"
        )
        return (
            super().get_config()
            | {name: getattr(self, name) for name in plain.split()}
            | {
                "pool": self.pooling.value,
                "positions": self.position_kind.value,
                "positions_at": self.positions_at.value,
                "pre_logits": self.has_pre_logits,
            }
        )
