"""Which reading a recipe follows, part by part."""

from __future__ import annotations

import pytest

from hqvox.trainer.readings import PAPER, PARTS, RELEASED, parts
from hqvox.trainer.recipes import load_train_config, recipe_names


def readings(recipe: str, *settings: str) -> dict[str, str]:
    return {name: whose for name, _, whose in parts(load_train_config(recipe, list(settings)))}


def test_the_two_readings_differ_in_every_part() -> None:
    assert set(readings(PAPER).values()) == {"paper"}
    assert set(readings(RELEASED).values()) == {"released code"}
    assert set(readings("sf2f-128-multires-released").values()) == {"released code"}


def test_a_changed_setting_is_neither() -> None:
    found = readings(PAPER, "stage2.stride_frames=100", "optimiser.betas=[0.9, 0.999]")
    assert found["stage 2"] == "neither"
    assert found["betas of Adam"] == "released code"
    assert found["learning rate"] == "paper"


def test_the_voices_of_a_baseline_are_those_of_its_release() -> None:
    found = readings("voice2face-64-released")
    assert found["betas of Adam"] == found["learning rate"] == "released code"
    assert found["networks"] == found["critics"] == "neither"


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
