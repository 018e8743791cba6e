"""Checkpoints of the released SF2F code against a plain restatement of its mathematics."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import ModelError
from models.sf2f.released import read_released
from models.sf2f.spec import GeneratorSpec
from tests.helpers import sf2f_published as published

RELEASED, GATED = "inception_released", "upsampling_released"
Case = tuple[Callable[[published.Maker], None], dict[str, object], GeneratorSpec]


def _inception(make: published.Maker) -> None:
    published.inception_encoder(make)
    published.gated_decoder(make, 64)


def _fused(make: published.Maker) -> None:
    _inception(make)
    published.fuser(make)


def _fused_multi(make: published.Maker) -> None:
    published.inception_encoder(make)
    published.fuser(make)
    published.gated_decoder(make, 64, multi=True)


def _single_128(make: published.Maker) -> None:
    published.inception_encoder(make)
    published.gated_decoder(make, 128)


def _voice2face(make: published.Maker, px: int = 64) -> None:
    published.plain_encoder(make)
    published.deconvolution_decoder(make, px)


def _voice2face_128(make: published.Maker) -> None:
    _voice2face(make, 128)


CASES: dict[str, Case] = {
    "sf2f_1st_stage": (_inception, {"inception_mode": True}, GeneratorSpec(RELEASED, GATED)),
    "sf2f_fuser": (
        _fused, published.FUSED, GeneratorSpec(RELEASED, GATED, (64,), "attention_released"),
    ),
    "sf2f_mid_fuser": (
        _fused_multi,
        published.FUSED,
        GeneratorSpec(RELEASED, GATED, (64, 128), "attention_released"),
    ),
    "sf2f_128": (_single_128, {"inception_mode": True}, GeneratorSpec(RELEASED, GATED, (128,))),
    "v2f": (_voice2face, {"add_noise": True}, GeneratorSpec("plain_released", "deconvolution")),
    "v2f_128": (
        _voice2face_128,
        {"add_noise": True},
        GeneratorSpec("plain_released", "deconvolution", (128,)),
    ),
}  # fmt: skip


def _state(build: Callable[[published.Maker], None]) -> published.State:
    make = published.Maker(0)
    build(make)
    return make.state


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_the_released_mathematics(name: str, tmp_path: Path) -> None:
    build, arguments, spec = CASES[name]
    state = _state(build)
    torch.save(published.checkpoint(state, **arguments), tmp_path / "best.pt")
    released = read_released(tmp_path / "best.pt")
    assert released.spec == spec
    assert released.iterations == 120_000
    generator = released.build()

    exact = {key: value.double() for key, value in state.items()}
    for frames in (125, 100):
        log_mels = torch.randn(3, 40, frames, generator=torch.Generator().manual_seed(frames))
        with torch.inference_mode():
            embeddings = generator.embed(log_mels)
            expected = published.embed(exact, log_mels.double())
            _close(embeddings, expected)
            vectors, exact_vectors = embeddings, expected
            if spec.fuser is not None:
                vectors = generator.fuse(embeddings[None], torch.ones(1, 3, dtype=torch.bool))
                exact_vectors = published.fuse(exact, expected)[None]
                _close(vectors, exact_vectors)
            pictures = generator.decode(vectors)
        wanted = published.decode(exact, exact_vectors)
        assert [p.shape[-1] for p in pictures] == list(spec.resolutions)
        for ours, theirs in zip(pictures, wanted, strict=True):
            assert theirs.std() > 0.1, "a picture that shows nothing compares nothing"
            _close(ours, theirs)


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=0.0, atol=1e-4)


def test_windows_differ_and_the_fuser_attends() -> None:
    """Guards the comparison above: attention that were uniform would hide a wrong score."""
    state = {key: value.double() for key, value in _state(_fused).items()}
    embeddings = published.embed(state, torch.randn(3, 40, 125, dtype=torch.float64))
    into = state["encoder.attn_fuser.attention.linear_in.weight"]
    weights = (embeddings @ into.T @ embeddings.T).softmax(dim=1)
    assert (weights - 1 / 3).abs().max() > 0.05


@pytest.mark.parametrize("zipped", [True, False])
def test_all_that_train_py_saves_is_read_past(zipped: bool, tmp_path: Path) -> None:
    state = _state(_inception)
    full = {
        **published.checkpoint({f"module.{key}": value for key, value in state.items()}),
        "args": {"batch_size": 16, "learning_rate": 5e-4, "resume": None, "face_gen_mode": []},
        "train_losses": defaultdict(list, {"total_loss": [1.0, 0.5]}),
        "val_losses": defaultdict(list),
        "val_samples": [np.zeros((2, 3, 8, 8), np.uint8)],
        "best_vfs": (np.float64(18.6), np.float32(0.9)),
        "optim_state": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []},
    }
    torch.save(full, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    released = read_released(tmp_path / "c.pt")
    assert released.spec == GeneratorSpec(RELEASED, GATED)
    torch.testing.assert_close(
        released.state["encoder.layers.4.weight"], state["encoder.model.4.weight"]
    )


def test_a_bare_state_dict_is_read_and_what_it_leaves_open_is_said(tmp_path: Path) -> None:
    torch.save(_state(_voice2face), tmp_path / "bare.pt")
    released = read_released(tmp_path / "bare.pt")
    assert released.spec == GeneratorSpec("plain_released", "deconvolution")
    assert released.iterations is None
    assert "does not say how" in " ".join(released.notes)


def test_noise_at_inference_is_said(tmp_path: Path) -> None:
    noisy = published.checkpoint(_state(_voice2face), add_noise=True)
    torch.save(noisy, tmp_path / "v2f.pt")
    assert "noise" in " ".join(read_released(tmp_path / "v2f.pt").notes)
    torch.save(published.checkpoint(_state(_voice2face)), tmp_path / "quiet.pt")
    quiet = read_released(tmp_path / "quiet.pt")
    assert quiet.spec.encoder == "plain"
    assert quiet.notes == ()


class Runs:
    """Pickles as a call that would leave a folder behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_named_and_not_run(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"model_state": {}, "args": Runs(trace)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    line = _error(tmp_path / "evil.pt")
    assert "mkdir" in line
    assert "would run code" in line
    assert not trace.exists()


def _error(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_released(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "something else than a checkpoint"),
        ({"model_state": {}}, "no generator in it"),
        ({"model_state": {"x": 1}}, "no generator in it"),
        ({"model_state": {"x": torch.zeros(2)}}, "no voice encoder"),
    ],
    ids=["a list", "empty", "no tensors", "another network"],
)
def test_other_files_are_one_line(content: object, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert said in _error(tmp_path / "other.pt")


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    assert "No such file" in _error(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut off")
    assert "not a torch weight file" in _error(tmp_path / "cut.pt")


def test_generators_of_other_recipes_are_refused(tmp_path: Path) -> None:
    state = _state(_inception)
    path = tmp_path / "c.pt"

    def refusal(changed: published.State, **arguments: object) -> str:
        torch.save(published.checkpoint(changed, **arguments), path)
        return _error(path)

    assert "lacks decoder.gnet.2.bias" in refusal(_without(state, "decoder.gnet.2.bias"))
    assert "do not: decoder.extra" in refusal({**state, "decoder.extra": torch.zeros(1)})
    wide = {**state, "encoder.model.4.weight": torch.zeros(256, 864, 3)}
    assert "misshapen" in refusal(wide)
    flat = {**state, "encoder.model.4.weight": torch.zeros(512)}
    assert "not that of SF2F's recipes" in refusal(flat)
    broken = {**state, "encoder.model.4.bias": torch.full((512,), float("nan"))}
    assert "not finite" in refusal(broken)
    assert "no face decoder" in refusal(
        {key: value for key, value in state.items() if key.startswith("encoder")}
    )
    assert "normalize_embedding" in refusal(state, normalize_embedding=False)
    published.fuser(make := published.Maker(0))
    loose = {**published.FUSED, "normalize_fusion": False}
    assert "normalize_fusion" in refusal({**state, **make.state}, **loose)


def _without(state: published.State, name: str) -> published.State:
    return {key: value for key, value in state.items() if key != name}
