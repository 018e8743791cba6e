"""Which reading a recipe follows, part by part."""

from __future__ import annotations

import pytest

from hqvox.trainer.readings import PAPER, PARTS, RELEASED, parts
from hqvox.trainer.recipes import load_train_config, recipe_names


def readings(recipe: str, *settings: str) -> dict[str, str]:
    return {name: whose for name, _, whose in parts(load_train_config(recipe, list(settings)))}


def test_the_two_readings_differ_in_every_part() -> None:
    same = {"speech": "paper and released code"}
    parts_that_differ = {part.name for part in PARTS} - set(same)
    for recipe, reading in (
        (PAPER, "paper"),
        (RELEASED, "released code"),
        ("sf2f-128-multires-released", "released code"),
    ):
        assert readings(recipe) == dict.fromkeys(parts_that_differ, reading) | same, recipe


def test_a_changed_setting_is_neither() -> None:
    found = readings(PAPER, "stage2.stride_frames=100", "optimiser.betas=[0.9, 0.999]")
    assert found["stage 2"] == "neither"
    assert found["betas of Adam"] == "released code"
    assert found["learning rate"] == "paper"


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("model.width=0.5", "networks"),
        ("model.embedding_dim=128", "networks"),
        ("loss.perceptual.network=dlib_resnet", "L1 : GAN : classifier : perceptual"),
        ("optimiser.clip_norm=1", "betas of Adam"),
        ("optimiser.first=critics", "betas of Adam"),
        ("stage1.batch_size=64", "iterations"),
        ("stage1.crop_frames=[100, 200]", "speech"),
        ("data.normalise=release", "speech"),
        ("data.pictures=origin", "pictures"),
        ("data.flip=true", "pictures"),
    ],
)
def test_no_changed_setting_passes_for_a_reading(setting: str, part: str) -> None:
    before, changed = readings(PAPER), readings(PAPER, setting)
    assert {name for name in before if before[name] != changed[name]} == {part}
    assert changed[part] == "neither"
    rows = [parts(load_train_config(PAPER, settings)) for settings in ([], [setting])]
    texts = [{name: text for name, text, _ in one}[part] for one in rows]
    assert texts[0] != texts[1], "the table shows what was changed"


def test_a_baseline_is_compared_with_its_own_readings() -> None:
    paper, released = readings("voice2face-64"), readings("voice2face-64-released")
    assert set(paper.values()) == {"paper", "paper and released code"}
    assert set(released.values()) == {"released code", "paper and released code"}
    assert released["networks"] == released["critics"] == "paper and released code"
    assert released["pictures"] == released["evaluation"] == "released code"


def test_voice2face_of_its_authors_is_a_reading_of_its_own() -> None:
    found = readings("voice2face-cmu")
    for part in ("networks", "critics", "learning rate", "iterations", "speech", "pictures"):
        assert found[part] == "voice2face's code", part
    assert found["evaluation"] == "paper"
    assert readings("voice2face-cmu", "data.normalise=release")["speech"] == "neither"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_described(name: str) -> None:
    rows = parts(load_train_config(name))
    assert [row[0] for row in rows] == [part.name for part in PARTS]
    assert all(text for _, text, _ in rows)


def test_what_is_shown_of_the_readings() -> None:
    shown = {name: text for name, text, _ in parts(load_train_config(RELEASED))}
    assert shown["stage 2"] == "whole utterances in windows of 125 frames every 125, at most 20"
    assert shown["pictures"] == "PIL's bilinear, last part of an epoch left out"
    shown = {name: text for name, text, _ in parts(load_train_config(PAPER))}
    assert shown["stage 2"] == "6 to 25 s in windows of 125 frames every 63, at most 38"
    assert shown["learning rate"] == "0.0005"
