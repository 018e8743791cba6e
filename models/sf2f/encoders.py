"""Voice encoders and the fuser of their embeddings.

Encoders map normalised log-mels (n, n_filters, t) to features over time (n, dim, t').

All encoders halve time five times: 125 frames become 63, 32, 16, 8, 4. The generator takes the time
average and the L2 norm. Fusers make one embedding of those of many windows (paper, section 4).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.sf2f.precision import at_least_float32
from models.sf2f.spec import scaled

CHANNELS = (256, 384, 576, 864)
"""Of the first four layers (table 9, and the baseline); the fifth has the embedding's."""
KERNELS = (2, 3, 5, 7)
PADDING = (1, 1, 2, 3)


class InceptionModule(nn.Module):
    """Four 1-D convolutions of stride 2 side by side, batch norm, ReLU (table 9).

    The paddings are our reading, as the paper gives none: 1, 1, 2, 3 for kernels 2, 3, 5, 7, all
    trimmed to the shortest, which is ceil(t / 2). Kernel 2 alone is longer, by one, where t is
    even. One batch norm over the joined channels is four side by side, in one call.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """``channels_out``: of the four together, a multiple of 4."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels_in, channels_out // 4, kernel, 2, padding, bias=False)
            for kernel, padding in zip(KERNELS, PADDING, strict=True)
        )
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, t) to (n, channels_out, ceil(t / 2))."""
        length = (x.shape[-1] + 1) // 2
        joined = torch.cat([conv(x)[..., :length] for conv in self.convs], dim=1)
        return F.relu(self.norm(joined))


class ReleasedInceptionModule(InceptionModule):
    """As in the released code, where each branch has its batch norm before kernel 2 is trimmed.

    In training, where t is even, the mean and variance of kernel 2's branch are over one step of
    time more. The weights are the same, and so is the result at inference.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, t) to (n, channels_out, ceil(t / 2))."""
        if not self.norm.training:
            return super().forward(x)
        length = (x.shape[-1] + 1) // 2
        branches = [conv(x) for conv in self.convs]
        first = branches[0].shape[1]
        assert self.norm.num_batches_tracked is not None
        self.norm.num_batches_tracked.add_(1)
        alone = self._normalised(branches[0], slice(0, first))[..., :length]
        others = self._normalised(torch.cat(branches[1:], dim=1), slice(first, None))
        return F.relu(torch.cat([alone, others], dim=1))

    def _normalised(self, x: torch.Tensor, channels: slice) -> torch.Tensor:
        """Batch norm in training of some of the channels."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        mean, var = norm.running_mean[channels], norm.running_var[channels]
        scale, shift = norm.weight[channels], norm.bias[channels]
        return F.batch_norm(x, mean, var, scale, shift, True, norm.momentum, norm.eps)


class PlainModule(nn.Module):
    """One 1-D convolution of kernel 3 and stride 2, batch norm, ReLU: the baseline's layer."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, t) to (n, channels_out, ceil(t / 2))."""
        return F.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """Five layers: four modules of one kind, and ``last``.

    ``noise``: deviation of the Gaussian noise that the generator adds to the normalised embedding
    in training, 0 for none.
    """

    def __init__(
        self, module: type[nn.Module], last: nn.Module, n_filters: int, width: float, noise: float
    ) -> None:
        super().__init__()
        sizes = [n_filters, *(scaled(channels, width) for channels in CHANNELS)]
        self.layers = nn.ModuleList(module(before, after) for before, after in pairwise(sizes))
        self.layers.append(last)
        self.noise = noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map log-mels (n, n_filters, t) to features (n, dim, ceil(t / 32))."""
        for layer in self.layers:
            x = layer(x)
        return x


def build_encoder(kind: str, n_filters: int, dim: int, width: float) -> Encoder:
    """Make an encoder of ``models.sf2f.spec.ENCODERS``."""
    before = scaled(CHANNELS[-1], width)
    noise = 0.05 if kind in ("plain_released", "cmu") else 0.0
    if kind == "inception":
        return Encoder(InceptionModule, InceptionModule(before, dim), n_filters, width, noise)
    module = ReleasedInceptionModule if kind == "inception_released" else PlainModule
    return Encoder(module, nn.Conv1d(before, dim, 3, 2, 1), n_filters, width, noise)


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

        ``mask``: bool (n, w), True for a window, False for padding; at least one window in each
        row. Values of padded windows have no influence, not even NaN.
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
        return F.normalize(at_least_float32(masked_mean(fused, mask)), dim=1)


def attend(query: torch.Tensor, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return sums of ``embeddings`` (n, w, dim), weighted by the softmax of query · embedding."""
    scores = torch.bmm(query, embeddings.transpose(1, 2))
    scores = scores.masked_fill(~mask[:, None, :], float("-inf"))
    return torch.bmm(scores.softmax(dim=2), embeddings)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (n, w, dim) over the windows that ``mask`` selects, (n, dim)."""
    weights = mask[..., None].to(values.dtype)
    return (values * weights).sum(dim=1) / weights.sum(dim=1)


def build_fuser(kind: str, dim: int) -> nn.Module:
    """Make a fuser of ``models.sf2f.spec.FUSERS``."""
    return AttentionFuser(dim) if kind == "attention" else ReleasedFuser(dim)
