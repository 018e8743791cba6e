"""The embedding fuser of section 4: many windows' embeddings to one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class AttentionFuser(nn.Module):
    """General attention of every window to every other, a linear layer, the mean over windows.

    With e_i (dim,) a window's embedding: s_ij = e_i' W e_j, b_i = softmax over j of s_ij,
    a_i = sum over j of b_ij e_j, f_i = W_f [a_i, e_i] + bias, f = mean over i of f_i. The paper
    does not normalise f, and neither does this.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, dim, bias=False)  # maps e_i to W' e_i
        self.combine = nn.Linear(2 * dim, dim)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fuse (n, w, dim) to (n, dim).

        ``mask``: bool (n, w), True where a window is there, at least one per row. What lies at
        padded windows has no influence, not even NaN.
        """
        embeddings = embeddings.masked_fill(~mask[..., None], 0.0)
        query = self.score(embeddings)
        attended = attend(query, embeddings, mask)
        fused = self.combine(torch.cat([attended, embeddings], dim=2))
        return masked_mean(fused, mask)


class ReleasedFuser(nn.Module):
    """The fuser of the released code: as section 4 but for three things.

    The linear layer sees W' e_i where the paper has e_i; it has no bias; f is L2-normalised.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, dim, bias=False)
        self.combine = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fuse (n, w, dim) to (n, dim); ``mask`` as in ``AttentionFuser``."""
        embeddings = embeddings.masked_fill(~mask[..., None], 0.0)
        query = self.score(embeddings)
        attended = attend(query, embeddings, mask)
        fused = self.combine(torch.cat([attended, query], dim=2))
        return F.normalize(masked_mean(fused, mask).float(), dim=1)


def attend(query: torch.Tensor, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return sums of ``embeddings`` (n, w, dim) weighed by the softmax of query · embedding."""
    scores = torch.bmm(query, embeddings.transpose(1, 2))
    scores = scores.masked_fill(~mask[:, None, :], float("-inf"))
    return torch.bmm(scores.softmax(dim=2), embeddings)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (n, w, dim) over the windows that are there, (n, dim)."""
    there = mask[..., None].to(values.dtype)
    return (values * there).sum(dim=1) / there.sum(dim=1)


def build_fuser(kind: str, dim: int) -> nn.Module:
    """Make a fuser of ``models.sf2f.spec.FUSERS``."""
    return AttentionFuser(dim) if kind == "attention" else ReleasedFuser(dim)
