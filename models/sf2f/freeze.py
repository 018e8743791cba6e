"""Holding a network still while another one learns."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Stop a module's learning for good: no gradients, and batch norm's statistics stay.

    It goes into evaluation mode and stays there when a parent's ``.train()`` is called, which
    would set the statistics moving again. Parameters pass gradients on to what comes before.
    """
    module.requires_grad_(False)
    for part in module.modules():
        part.eval()
        part.train = _stay_still.__get__(part)  # type: ignore[method-assign]
    return module


def _stay_still(self: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of ``train``: keep evaluation mode whatever is asked."""
    return self
