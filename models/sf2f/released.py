"""Generators of the released SF2F code (github.com/BAI-Yeqi/SF2F_PyTorch) as generators of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.errors import ModelError
from models.sf2f import released_names
from models.sf2f.generator import Generator, build_generator
from models.sf2f.released_file import read_file
from models.sf2f.spec import GeneratorSpec


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
    content = read_file(path)
    state = content.get("model_state", content)
    named = isinstance(state, Mapping) and all(map(_is_named_tensor, state.items()))
    if not named or not state:
        raise ModelError(
            f"{path}: no generator in it ('model_state'); name a file of SF2F's train.py"
        )
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    arguments = content.get("model_kwargs")
    notes = _judge(arguments, path) if isinstance(arguments, Mapping) else [UNTOLD]
    noisy = not isinstance(arguments, Mapping) or bool(_part(arguments, "encoder").get("add_noise"))
    spec, pairs = _recognise(tensors, noisy, path)
    return Released(spec, _renamed(tensors, pairs, spec, path), _iterations(content), tuple(notes))


UNTOLD = (
    "the file does not say how the generator was made (no 'model_kwargs'); taken for the published "
    "recipe: embeddings normalised, fused ones too"
)


def _recognise(
    tensors: Mapping[str, torch.Tensor], noisy: bool, path: Path
) -> tuple[GeneratorSpec, list[tuple[str, list[str]]]]:
    """Tell by the names which networks these are."""
    pairs: list[tuple[str, list[str]]] = []
    if (first := tensors.get("encoder.model.0.conv_k2.model.0.weight")) is not None:
        encoder, last = "inception_released", "encoder.model.4.weight"
        pairs += released_names.inception_encoder()
    elif (first := tensors.get("encoder.model.0.weight")) is not None:
        encoder, last = "plain_released" if noisy else "plain", "encoder.model.12.weight"
        pairs += released_names.plain_encoder()
    else:
        raise ModelError(f"{path}: no voice encoder of SF2F's recipes (V2F1DCNN) in it")
    fuser = None
    if "encoder.attn_fuser.attention.linear_in.weight" in tensors:
        fuser = "attention_released"
        pairs += released_names.fuser()
    if "decoder.fc.0.weight" in tensors:
        decoder = "upsampling_released"
        several = "decoder.up_mid_layer.1.weight" in tensors
        resolutions: tuple[int, ...] = (64, 128)
        if not several:
            resolutions = (4 << _count(tensors, "decoder.up_layers.{}.1.weight"),)
        pairs += released_names.gated_decoder(resolutions)
    elif "decoder.model.0.model.0.weight" in tensors:
        decoder = "deconvolution"
        resolutions = (2 << (_count(tensors, "decoder.model.{}.model.0.weight") - 1),)
        pairs += released_names.deconvolution_decoder(resolutions[0])
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


def _judge(arguments: Mapping[str, Any], path: Path) -> list[str]:
    """Refuse what changes the pictures but leaves the tensors' names and shapes alone."""
    notes = []
    encoder = _part(arguments, "encoder")
    if encoder.get("normalize_embedding") is not True:
        raise ModelError(f"{path}: made without 'normalize_embedding', which no SF2F recipe is")
    if encoder.get("add_noise"):
        notes.append(
            "the released code adds its noise of 0.05 at inference too; here in training only"
        )
    if encoder.get("segments_fusion"):
        fuser = encoder.get("fuser_kwargs")
        own = fuser if isinstance(fuser, Mapping) else {}
        if encoder.get("normalize_fusion") is not True or own.get("ignore_tanh") is not True:
            raise ModelError(
                f"{path}: its fuser is made without 'normalize_fusion' or 'ignore_tanh', which no "
                "SF2F recipe is"
            )
    return notes


def _part(arguments: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = arguments.get(f"{name}_kwargs")
    return part if isinstance(part, Mapping) else {}


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many of 0, 1, 2, … are there."""
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
