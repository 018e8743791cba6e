"""Weights that other codes released, read into our networks without running code from the files.

* Generators of the released SF2F code, github.com/BAI-Yeqi/SF2F_PyTorch (:func:`read_released`).
  Its ``train.py`` saves a dict: ``model_state`` (the generator), ``model_kwargs`` (how it was
  made), ``counters``, and optimisers, discriminators, losses and pictures, which are skipped here.
  Its networks are ``V2F1DCNN`` with ``AttentionFuserV1``, and the decoders ``FaceGanDecoder`` (one
  resolution), ``FaceGanDecoder_v2`` (64 and 128 px) and ``V2FDecoder`` (voice2face).
* voice2face as its authors released it, github.com/cmu-mlsp/reconstructing_faces_from_voices:
  ``generator.pth`` with ``voice_embedding.pth`` (:func:`read_voice2face`), or the second alone,
  their voice network pretrained for speaker recognition (:func:`load_voice_encoder`). Both are
  bare state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.errors import ModelError
from models.sf2f.encoders import KERNELS, Encoder, PlainModule
from models.sf2f.generator import Generator, build_generator
from models.sf2f.spec import GeneratorSpec
from models.weight_files import fill, read_checkpoint, read_torch_file


@dataclass(frozen=True)
class Released:
    """A generator of the released code, by our names."""

    spec: GeneratorSpec
    state: dict[str, torch.Tensor]
    """Fits ``build_generator(spec)``; float32, finite."""
    iterations: int | None
    """How long it was trained, where the file says so."""
    notes: tuple[str, ...]
    """What a user should know, one line each."""

    def build(self) -> Generator:
        """Return the generator in evaluation mode, on the CPU."""
        generator = build_generator(self.spec)
        generator.load_state_dict(self.state, strict=False)  # batch counters stay at 0
        return generator.eval()


def read_released(path: Path) -> Released:
    """Read a checkpoint of the released code, in torch's zip form or the older one.

    Raises ModelError where it cannot be read, would need code to be run, is another program's, or
    holds a generator that the released recipes do not have.
    """
    content = _read_file(path)
    state = content.get("model_state", content)
    named = isinstance(state, Mapping) and all(map(_is_named_tensor, state.items()))
    if not named or not state:
        raise ModelError(
            f"{path}: no generator in it ('model_state'); name a file of SF2F's train.py"
        )
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    arguments = content.get("model_kwargs")
    notes = _check_arguments(arguments, path) if isinstance(arguments, Mapping) else [UNTOLD]
    noisy = not isinstance(arguments, Mapping) or bool(
        _section(arguments, "encoder").get("add_noise")
    )
    spec, pairs = _recognise(tensors, noisy, path)
    return Released(spec, _renamed(tensors, pairs, spec, path), _iterations(content), tuple(notes))


UNTOLD = (
    "the file does not say how the generator was made (no 'model_kwargs'); taken for the published "
    "recipe: embeddings normalised, fused ones too"
)


def _recognise(
    tensors: Mapping[str, torch.Tensor], noisy: bool, path: Path
) -> tuple[GeneratorSpec, list[tuple[str, list[str]]]]:
    """Recognise the networks by their tensors' names; the description and the renaming."""
    pairs: list[tuple[str, list[str]]] = []
    if (first := tensors.get("encoder.model.0.conv_k2.model.0.weight")) is not None:
        encoder, last = "inception_released", "encoder.model.4.weight"
        pairs += _inception_encoder_names()
    elif (first := tensors.get("encoder.model.0.weight")) is not None:
        encoder, last = "plain_released" if noisy else "plain", "encoder.model.12.weight"
        pairs += _plain_encoder_names()
    else:
        raise ModelError(f"{path}: no voice encoder of SF2F's recipes (V2F1DCNN) in it")
    fuser = None
    if "encoder.attn_fuser.attention.linear_in.weight" in tensors:
        fuser = "attention_released"
        pairs += _fuser_names()
    if "decoder.fc.0.weight" in tensors:
        decoder = "upsampling_released"
        several = "decoder.up_mid_layer.1.weight" in tensors
        resolutions: tuple[int, ...] = (64, 128)
        if not several:
            resolutions = (4 << _count(tensors, "decoder.up_layers.{}.1.weight"),)
        pairs += _gated_decoder_names(resolutions)
    elif "decoder.model.0.model.0.weight" in tensors:
        decoder = "deconvolution"
        resolutions = (2 << (_count(tensors, "decoder.model.{}.model.0.weight") - 1),)
        pairs += _deconvolution_decoder_names(resolutions[0])
    else:
        raise ModelError(
            f"{path}: no face decoder of SF2F's recipes (FaceGanDecoder, FaceGanDecoder_v2, "
            "V2FDecoder) in it"
        )
    end = tensors.get(last)
    if first.dim() != 3 or end is None or end.dim() != 3:
        raise ModelError(f"{path}: its voice encoder is not that of SF2F's recipes")
    try:
        spec = GeneratorSpec(
            encoder, decoder, resolutions, fuser, int(first.shape[1]), int(end.shape[0])
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return spec, pairs


def _renamed(
    tensors: Mapping[str, torch.Tensor],
    pairs: list[tuple[str, list[str]]],
    spec: GeneratorSpec,
    path: Path,
) -> dict[str, torch.Tensor]:
    """Put their tensors under our names, all of them, shapes and values checked."""
    read = {name for _, theirs in pairs for name in theirs}
    given = {name for name in tensors if not name.endswith("num_batches_tracked")}
    _refuse(path, "lacks", sorted(read - given))
    _refuse(path, "has what SF2F's recipes do not:", sorted(given - read))
    with torch.device("meta"):
        wanted = build_generator(spec).state_dict()
    state = {}
    for ours, theirs in pairs:
        scalar = [name for name in theirs if tensors[name].dim() == 0]
        _refuse(path, "has misshapen", scalar)
        tensor = torch.cat([tensors[name] for name in theirs])
        if tensor.shape != wanted[ours].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[ours].shape)}"
            _refuse(path, "has misshapen", [f"{', '.join(theirs)}: {shapes}"])
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            _refuse(path, "has numbers that are not finite floats in", theirs)
        state[ours] = tensor.float()
    return state


def _check_arguments(arguments: Mapping[str, Any], path: Path) -> list[str]:
    """Refuse what changes the pictures but leaves the tensors' names and shapes alone."""
    notes = []
    encoder = _section(arguments, "encoder")
    if encoder.get("normalize_embedding") is not True:
        raise ModelError(f"{path}: made without 'normalize_embedding', which no SF2F recipe is")
    if encoder.get("add_noise"):
        notes.append(
            "the released code adds its noise of 0.05 at inference too; here in training only"
        )
    if encoder.get("segments_fusion"):
        fuser = encoder.get("fuser_kwargs")
        settings = fuser if isinstance(fuser, Mapping) else {}
        if encoder.get("normalize_fusion") is not True or settings.get("ignore_tanh") is not True:
            raise ModelError(
                f"{path}: its fuser is made without 'normalize_fusion' or 'ignore_tanh', which no "
                "SF2F recipe is"
            )
    return notes


def _section(arguments: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = arguments.get(f"{name}_kwargs")
    return section if isinstance(section, Mapping) else {}


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many layers there are: tensors whose names are ``pattern`` with 0, 1, 2, …"""
    count = 0
    while pattern.format(count) in tensors:
        count += 1
    return count


def _iterations(content: Mapping[str, Any]) -> int | None:
    counters = content.get("counters")
    done = counters.get("t") if isinstance(counters, Mapping) else None
    return done if isinstance(done, int) else None


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _refuse(path: Path, fault: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ModelError(f"{path} is no checkpoint of SF2F's recipes: it {fault} {shown}")


class _Skipped:
    """Replaces a NumPy value, which is not read: takes any arguments, keeps nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _skipped_dict(*arguments: object) -> OrderedDict[Any, Any]:
    """Replaces a ``defaultdict``, whose items are then set one by one."""
    return OrderedDict()


class _Factory:
    """Replaces a ``defaultdict``'s factory; never called."""


_REPLACEMENTS: list[Any] = [
    (_skipped_dict, "collections.defaultdict"),
    (_Factory, "builtins.list"),
    *(
        (_Skipped, name)
        for name in (
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.ndarray",
            "numpy.dtype",
        )
    ),
]
"""What ``train.py`` saves beside tensors and plain values: losses and scores. None of it runs."""


def _read_file(path: Path) -> Mapping[Any, Any]:
    """Return the dict that a file holds: what ``train.py`` saves, or a bare state dict.

    NumPy's numbers and arrays are replaced, not read. Raises ModelError where the file cannot
    be read or would need code to be run.
    """
    with torch.serialization.safe_globals(_REPLACEMENTS):
        content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: holds something else than a checkpoint; name a file of train.py")
    return content


Pairs = Iterator[tuple[str, list[str]]]

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
AFFINE = ("weight", "bias")


def _inception_encoder_names() -> Pairs:
    """Four inception modules, each with a batch norm per kernel, and a convolution."""
    for layer in range(4):
        theirs = [f"encoder.model.{layer}.conv_k{kernel}.model" for kernel in KERNELS]
        for index, name in enumerate(theirs):
            yield f"encoder.layers.{layer}.convs.{index}.weight", [f"{name}.0.weight"]
        for kind in BATCH_NORM:
            yield f"encoder.layers.{layer}.norm.{kind}", [f"{name}.1.{kind}" for name in theirs]
    yield from _same("encoder.layers.4", "encoder.model.4", AFFINE)


def _plain_encoder_names(theirs: str = "encoder.model") -> Pairs:
    """Four convolutions with batch norm and ReLU, and a convolution; voice2face's own as well."""
    for layer in range(4):
        yield f"encoder.layers.{layer}.conv.weight", [f"{theirs}.{3 * layer}.weight"]
        yield from _same(f"encoder.layers.{layer}.norm", f"{theirs}.{3 * layer + 1}", BATCH_NORM)
    yield from _same("encoder.layers.4", f"{theirs}.12", AFFINE)


def _fuser_names() -> Pairs:
    """``AttentionFuserV1``, which is a part of their encoder."""
    yield "fuser.score.weight", ["encoder.attn_fuser.attention.linear_in.weight"]
    yield "fuser.combine.weight", ["encoder.attn_fuser.attention.linear_out.weight"]


def _gated_decoder_names(resolutions: tuple[int, ...]) -> Pairs:
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


def _deconvolution_decoder_names(px: int) -> Pairs:
    """``V2FDecoder`` without normalisation."""
    count = px.bit_length() - 2
    for index in range(count):
        yield from _same(f"decoder.blocks.{index}", f"decoder.model.{index}.model.0", AFFINE)
    yield from _same("decoder.to_rgb", f"decoder.model.{count}.model.0", AFFINE)


def _same(ours: str, theirs: str, kinds: tuple[str, ...]) -> Pairs:
    for kind in kinds:
        yield f"{ours}.{kind}", [f"{theirs}.{kind}"]


VOICE_PREFIX = "model"
"""Prefix of the tensors in voice2face's files."""
VOICE2FACE_SPEC = GeneratorSpec("cmu", "cmu", (64,), None, n_filters=64, embedding_dim=64)
VOICE2FACE_INPUT = {"kind": "utterance", "front_end": "voice2face"}
"""What voice2face's own networks hear: the log-mels' normalisation and front end."""


def read_voice2face(generator: Path, voice: Path) -> Released:
    """Read voice2face's ``generator.pth`` and ``voice_embedding.pth`` as one generator.

    Raises ModelError where a file cannot be read, would need code to be run, or is another's.
    """
    decoder = {}
    for index in range(6):
        ours = "to_rgb" if index == 5 else f"blocks.{index}"
        for kind in AFFINE:
            decoder[f"{VOICE_PREFIX}.{2 * index}.{kind}"] = f"decoder.{ours}.{kind}"
    network = build_generator(VOICE2FACE_SPEC)
    given = {decoder.get(k, k).removeprefix("decoder."): v for k, v in
             read_checkpoint(generator).items()}  # fmt: skip
    fill(network.decoder, given, generator, "voice2face's generator.pth")
    tensors = _renamed_voice_encoder(read_checkpoint(voice))
    fill(network.encoder, tensors, voice, "voice2face's voice_embedding.pth")
    return Released(VOICE2FACE_SPEC, network.state_dict(), None, ())


def load_voice_encoder(encoder: Encoder, path: Path) -> Mapping[str, Any]:
    """Fill a plain voice encoder from a file; return what it hears, see :data:`VOICE2FACE_INPUT`.

    The file is the authors', a checkpoint of ``hqvox train voice-embedding``, or holds the tensors
    by our names; the last does not say what it hears, and nothing is returned. Raises ModelError
    where the file cannot be read, does not fit, or the encoder is no plain one.
    """
    if not all(isinstance(layer, PlainModule) for layer in encoder.layers[:4]):
        raise ModelError(
            f"{path}: these are weights for a plain voice encoder; set model.encoder to cmu, plain "
            "or plain_released"
        )
    content = read_torch_file(path)
    hears: Mapping[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("generator"), Mapping):
        stored = content["generator"].items()
        tensors = {k.removeprefix("encoder."): v for k, v in stored if k.startswith("encoder.")}
        normalise = content.get("normalise")
        hears = normalise if isinstance(normalise, Mapping) else {}
    else:
        tensors = read_checkpoint(path)
        if f"{VOICE_PREFIX}.0.weight" in tensors:
            hears = VOICE2FACE_INPUT
    fill(encoder, _renamed_voice_encoder(tensors), path, "a voice encoder of this size")
    return hears


def _renamed_voice_encoder(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Put the authors' tensors under our names; keep others, which ``fill`` then checks."""
    if f"{VOICE_PREFIX}.0.weight" not in tensors:
        return tensors
    ours = {
        theirs: name.removeprefix("encoder.")
        for name, (theirs,) in _plain_encoder_names(VOICE_PREFIX)
    }
    return {ours.get(name, name): tensor for name, tensor in tensors.items()}
