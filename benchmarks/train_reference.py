"""One training iteration of SF2F in plain code: the reference of `benchmarks/train.py`.

The same mathematics as `hqvox/trainer/step.py`, with the same networks. Pictures and log-mels of a
batch are read from their files, real faces pass through the face network at every step, and
everything is float32 and eager. Common optimisations are kept: pictures are generated once, and the
face network is frozen and in evaluation mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hqvox.trainer.config import TrainConfig
from hqvox.trainer.features import FeatureNetwork
from models.sf2f.colour import IMAGENET_MEAN, IMAGENET_STD, to_unit
from models.sf2f.discriminators import IdentityClassifier, ImageDiscriminator
from models.sf2f.generator import Generator


@dataclass(frozen=True)
class Item:
    """A picture's and a log-mel's file, and who it is."""

    picture: Path
    """JPEG, any side."""
    log_mel: Path
    """npy, float (frames, filters)."""
    identity: int


class ReferenceStep:
    """Call it with the items of a batch; it reads them and does one iteration."""

    def __init__(
        self,
        config: TrainConfig,
        generator: Generator,
        discriminator: ImageDiscriminator,
        classifier: IdentityClassifier,
        network: FeatureNetwork,
        device: torch.device,
    ) -> None:
        self.config, self.network, self.device = config, network, device
        self.networks = (generator.to(device), discriminator.to(device), classifier.to(device))
        optimiser = config.optimiser
        self.adams = [
            torch.optim.Adam(n.parameters(), lr=optimiser.learning_rate, betas=optimiser.betas)
            for n in self.networks
        ]
        self.mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def read(self, items: list[Item], rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Log-mels (n, filters, frames), pictures (n, 3, px, px), identities (n,)."""
        low, high = self.config.stage1.crop_frames
        frames = int(rng.integers(low, high + 1))
        px = self.config.model.resolutions[0]
        log_mels, pictures = [], []
        for item in items:
            rgb = cv2.imread(str(item.picture))[..., ::-1]
            rgb = cv2.resize(np.ascontiguousarray(rgb), (px, px), interpolation=cv2.INTER_AREA)
            picture = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
            pictures.append((picture - self.mean) / self.std)
            whole = np.load(item.log_mel).astype(np.float32)
            start = int(rng.integers(0, max(1, len(whole) - frames + 1)))
            crop = np.zeros((frames, whole.shape[1]), np.float32)
            piece = whole[start : start + frames]
            crop[: len(piece)] = piece
            log_mels.append((torch.from_numpy(crop.T.copy()) - 10.9915) / 3.1661)
        identity = torch.tensor([item.identity for item in items])
        batch = (torch.stack(log_mels), torch.stack(pictures), identity)
        return tuple(values.to(self.device) for values in batch)

    def __call__(self, items: list[Item], rng: np.random.Generator) -> None:
        """Read the items and do one iteration."""
        log_mel, real, identity = self.read(items, rng)
        generator, discriminator, classifier = self.networks
        loss = self.config.loss
        yes = torch.ones(len(real), dtype=torch.int64, device=self.device)

        fake = generator(log_mel)[0]
        with torch.no_grad():
            real_maps, real_embedding = self.network.features(to_unit(real))
        maps, embedding = self.network.features(to_unit(fake))
        pairs = zip([*maps, embedding], [*real_maps, real_embedding], strict=True)
        perceptual = sum(
            weight * (ours - theirs).abs().mean()
            for weight, (ours, theirs) in zip(loss.perceptual.level_weights, pairs, strict=True)
        )
        total = (
            loss.l1.weight * F.l1_loss(fake, real)
            + loss.gan.weight * F.cross_entropy(discriminator(fake), yes)
            + loss.classifier.weight * F.cross_entropy(classifier(fake), identity)
            + loss.perceptual.weight * perceptual
        )
        self._update(0, total)

        fake = fake.detach()
        of_real = F.cross_entropy(discriminator(real), yes)
        of_fake = F.cross_entropy(discriminator(fake), torch.zeros_like(yes))
        self._update(1, of_real + of_fake)

        self._update(2, F.cross_entropy(classifier(real), identity))

    def _update(self, which: int, loss: torch.Tensor) -> None:
        self.adams[which].zero_grad()
        loss.backward()
        self.adams[which].step()


class FaceNetAsItIs(nn.Module):
    """FaceNet as it comes, its batch norms not folded into its convolutions."""

    name = "facenet_vggface2"
    dim = 512

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def features(self, unit_pictures: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As ``hqvox.trainer.features.FaceNetFeatures``."""
        from models.embedding.facenet import face_input

        *maps, embedding = self.network.features(face_input(unit_pictures))
        return maps, embedding
