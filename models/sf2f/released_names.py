"""How the released SF2F code names its tensors, and how we name the same ones.

Theirs is github.com/BAI-Yeqi/SF2F_PyTorch: ``V2F1DCNN`` with ``AttentionFuserV1``, and the decoders
``FaceGanDecoder`` (one resolution), ``FaceGanDecoder_v2`` (64 and 128 px) and ``V2FDecoder``
(voice2face). Each function answers with pairs (our name, their names); more than one of theirs are
joined along the first axis.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.sf2f.encoders import KERNELS

Pairs = Iterator[tuple[str, list[str]]]

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
AFFINE = ("weight", "bias")


def inception_encoder() -> Pairs:
    """Four inception modules, each with a batch norm per kernel, and a convolution."""
    for layer in range(4):
        theirs = [f"encoder.model.{layer}.conv_k{kernel}.model" for kernel in KERNELS]
        for index, name in enumerate(theirs):
            yield f"encoder.layers.{layer}.convs.{index}.weight", [f"{name}.0.weight"]
        for kind in BATCH_NORM:
            yield f"encoder.layers.{layer}.norm.{kind}", [f"{name}.1.{kind}" for name in theirs]
    yield from _same("encoder.layers.4", "encoder.model.4", AFFINE)


def plain_encoder(theirs: str = "encoder.model") -> Pairs:
    """Four convolutions with batch norm and ReLU, and a convolution; voice2face's own as well."""
    for layer in range(4):
        yield f"encoder.layers.{layer}.conv.weight", [f"{theirs}.{3 * layer}.weight"]
        yield from _same(f"encoder.layers.{layer}.norm", f"{theirs}.{3 * layer + 1}", BATCH_NORM)
    yield from _same("encoder.layers.4", f"{theirs}.12", AFFINE)


def fuser() -> Pairs:
    """``AttentionFuserV1``, which is a part of their encoder."""
    yield "fuser.score.weight", ["encoder.attn_fuser.attention.linear_in.weight"]
    yield "fuser.combine.weight", ["encoder.attn_fuser.attention.linear_out.weight"]


def gated_decoder(resolutions: tuple[int, ...]) -> Pairs:
    """``FaceGanDecoder`` for one resolution, ``FaceGanDecoder_v2`` for two."""
    yield "decoder.linear.weight", ["decoder.fc.0.weight"]
    yield from _same("decoder.norm", "decoder.fc.1", BATCH_NORM)
    several = len(resolutions) > 1
    blocks = resolutions[0].bit_length() - 3
    stack = "decoder.up_low_layers" if several else "decoder.up_layers"
    theirs = [f"{stack}.{index}" for index in range(blocks)]
    theirs += ["decoder.up_mid_layer"] if several else []
    for index, name in enumerate(theirs):
        yield f"decoder.blocks.{index}.conv.weight", [f"{name}.1.weight"]
        yield from _same(f"decoder.blocks.{index}.norm", f"{name}.2", BATCH_NORM)
    heads = ("decoder.gnet_low", "decoder.gnet_mid") if several else ("decoder.gnet",)
    for px, name in zip(resolutions, heads, strict=True):
        yield from _same(f"decoder.heads.{px}.conv", f"{name}.0", AFFINE)
        yield from _same(f"decoder.heads.{px}.to_rgb", f"{name}.2", AFFINE)


def deconvolution_decoder(px: int) -> Pairs:
    """``V2FDecoder`` without normalisation."""
    count = px.bit_length() - 2
    for index in range(count):
        yield from _same(f"decoder.blocks.{index}", f"decoder.model.{index}.model.0", AFFINE)
    yield from _same("decoder.to_rgb", f"decoder.model.{count}.model.0", AFFINE)


def _same(ours: str, theirs: str, kinds: tuple[str, ...]) -> Pairs:
    for kind in kinds:
        yield f"{ours}.{kind}", [f"{theirs}.{kind}"]
