"""The layers of a network in the order they run: output shapes, parameters, multiply-adds.

Counted on PyTorch's ``meta`` device, so nothing is computed and nothing but shapes is needed.
Convention: a multiply-add is one multiplication and one addition of a convolution, a linear layer
or a matrix product; FLOPs are twice that. Batch norm, activations, interpolation, softmax and
pooling are not counted, as is usual. Transposed convolutions count every kernel weight per input
pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.errors import ModelError
from models.sf2f.generator import Generator, build_generator
from models.sf2f.spec import GeneratorSpec

OPENED = ("encoder", "decoder")
"""Modules of a generator whose layers are listed one by one."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network, or a whole network."""

    name: str
    """Its path in the network, as in a state dict."""
    output: tuple[int, ...]
    """Shape of its output for one item, without the batch axis; () where it has several outputs."""
    parameters: int
    multiply_adds: int
    """For one item: one face from one window; for several windows of one face, all of them."""

    @property
    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * self.multiply_adds


@dataclass(frozen=True)
class Description:
    """The layers of a network, and the whole network."""

    layers: tuple[LayerInfo, ...]
    total: LayerInfo


def describe_generator(spec: GeneratorSpec, frames: int = 125, windows: int = 1) -> Description:
    """Describe a generator that makes one face of ``windows`` windows of ``frames`` log-mel frames.

    ``frames`` are 10 ms each. Encoder layers are counted for all windows together, the fuser where
    there is one, and the decoder once. ModelError for several windows without a fuser.
    """
    _positive("frames", frames)
    _positive("windows", windows)
    if windows > 1 and spec.fuser is None:
        raise ModelError("several windows make one face only with a fuser; this network has none")
    with torch.device("meta"):
        generator = build_generator(spec).eval()
        log_mels = torch.zeros(windows, spec.n_filters, frames)
        mask = torch.ones(1, windows, dtype=torch.bool)

    def run(generator: nn.Module) -> object:
        assert isinstance(generator, Generator)
        embeddings = generator.embed(log_mels)
        if spec.decoder == "none":
            return embeddings
        if generator.fuser is None:
            return generator.decode(embeddings)
        return generator.decode(generator.fuser(embeddings[None], mask))

    return describe(generator, run)


def describe_network(network: nn.Module, px: int) -> Description:
    """Describe a network of RGB pictures (n, 3, px, px), on any device."""
    _positive("px", px)
    network = network.to("meta").eval()
    pictures = torch.zeros(1, 3, px, px, device="meta")
    return describe(network, lambda network: network(pictures))


def describe(network: nn.Module, run: Callable[[nn.Module], object]) -> Description:
    """Describe ``network`` by running it once with ``run``, on the meta device or any other."""
    layers: list[LayerInfo] = []
    hooks = []
    counter = FlopCounterMode(display=False)

    def watch(name: str, module: nn.Module) -> None:
        before = 0

        def enter(_module: nn.Module, _inputs: object) -> None:
            nonlocal before
            before = counter.get_total_flops()

        def leave(_module: nn.Module, _inputs: object, result: object) -> None:
            shape = tuple(result.shape[1:]) if isinstance(result, torch.Tensor) else ()
            work = (counter.get_total_flops() - before) // 2
            layers.append(LayerInfo(name, shape, _size(module), work))

        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave))

    for name, module in _layers(network):
        watch(name, module)
    try:
        with torch.no_grad(), counter:
            run(network)
    finally:
        for hook in hooks:
            hook.remove()
    total = LayerInfo("total", (), _size(network), counter.get_total_flops() // 2)
    return Description(tuple(layers), total)


def _layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a network that are listed, and their paths."""
    for name, child in network.named_children():
        if name in OPENED or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _positive(what: str, value: int) -> None:
    if value < 1:
        raise ModelError(f"{what} is {value}; it must be 1 or more")
