"""The losses of GFPGAN's fine-tuning (AVP-GAN, equations 7 to 10), as pure functions.

Our reading: a norm is the mean over all numbers, as in GFPGAN's code; pictures are on its scale of
-1 to 1. Equation 8 as printed has no lower bound and equation 9 saturates, so the generator
minimises softplus(-D), which is -log of D's probability, in both, as GFPGAN's code does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

FFHQ_PARTS: dict[str, tuple[float, float, int]] = {
    "left_eye": (0.377, 0.469, 80),
    "right_eye": (0.623, 0.469, 80),
    "mouth": (0.5, 0.725, 120),
}
"""Centre x, y as fractions of the side in FFHQ's template, and side in px at 512 (gfpgan)."""
SHALLOW_STYLE = 0.5
"""Weight of the shallow maps' Gram matrices beside the deep ones' (gfpgan)."""


def l1(restored: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of pictures or embeddings (equations 7 and 10)."""
    return (restored - real).abs().mean()


def weighted_l1(
    restored: Sequence[torch.Tensor], real: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """:func:`l1` of each pair of maps, weighted and summed: the perceptual loss of equation 7."""
    pairs = zip(restored, real, weights, strict=True)
    return torch.stack([weight * l1(a, b.detach()) for a, b, weight in pairs]).sum()


def generator_adversarial(logits: torch.Tensor) -> torch.Tensor:
    """softplus(-D) of restored pictures (equations 8 and 9)."""
    return F.softplus(-logits).mean()


def critic_adversarial(real: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """softplus(-D(real)) + softplus(D(restored)): what every discriminator minimises."""
    return F.softplus(-real).mean() + F.softplus(restored).mean()


def gram(maps: torch.Tensor) -> torch.Tensor:
    """Gram matrices (n, c, c) of maps (n, c, h, w), divided by c h w."""
    rows = maps.flatten(2)
    return rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])


def style(restored: Sequence[torch.Tensor], real: Sequence[torch.Tensor]) -> torch.Tensor:
    """Difference of Gram matrices of a part's shallow and deep maps (equation 9)."""
    return weighted_l1([gram(m) for m in restored], [gram(m) for m in real], (SHALLOW_STYLE, 1.0))


def r1_penalty(logits: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Mean squared length of D's gradient at real pictures, which need gradients."""
    (slope,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)).mean()


def part_of(pictures: torch.Tensor, name: str) -> torch.Tensor:
    """An eye or the mouth, cut out of pictures (n, 3, px, px) in FFHQ's geometry.

    One fixed place for all, where GFPGAN takes landmarks: our eyes are aligned.
    """
    x, y, at_512 = FFHQ_PARTS[name]
    px = pictures.shape[-1]
    side = max(4, round(at_512 * px / 512))
    left, top = round(x * px - side / 2), round(y * px - side / 2)
    return pictures[..., top : top + side, left : left + side]
