"""hqvox.yaml: merging, and errors that name line, key and unit."""

from __future__ import annotations

import pytest

from hqvox.config.build import BuildConfig
from hqvox.config.file import load_config, parse_settings, recipe_names
from hqvox.errors import HqvoxError


def test_defaults_recipe_file_and_settings_win_in_that_order() -> None:
    text = "recipe: paper\npose:\n  max_yaw_deg: 8\n  max_pitch_deg: 9\n"
    config = load_config(text, settings=["pose.max_pitch_deg=10"])
    assert config.pose.max_yaw_deg == 8
    assert config.pose.max_pitch_deg == 10
    assert config.segment.network == "pspnet_voc"
    assert load_config(text, recipe="bundled").segment.network == "pspnet_portrait"
    assert load_config("") == load_config("", recipe="bundled")


def test_every_recipe_loads_and_every_setting_says_what_it_means() -> None:
    assert recipe_names() == ["bundled", "paper", "paper-exact", "small"]
    for name in recipe_names():
        load_config("", recipe=name)
    for section, field in BuildConfig.model_fields.items():
        model = field.annotation
        for key, inner in getattr(model, "model_fields", {}).items():
            assert inner.description, f"{section}.{key}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pose:\n  max_yaw_dgr: 5\n", "hqvox.yaml:2: pose.max_yaw_dgr: .*pose.max_yaw_deg"),
        ("pose:\n  max_yaw_rad: 0.1\n", "hqvox.yaml:2: .*did you mean pose.max_yaw_deg"),
        ("\n\nposse: {}\n", "hqvox.yaml:3: posse: unknown key; did you mean pose"),
        ("pose:\n  max_yaw_deg: 5deg\n", "hqvox.yaml:2: pose.max_yaw_deg: '5deg' .*degrees"),
        ("pupils:\n  min_ipd_px: '30px'\n", "hqvox.yaml:2: .*'30px'.*px of the original"),
        ("pose:\n  max_yaw_deg: 500\n", "hqvox.yaml:2: .*less than or equal to 90"),
        ("format: 2\n", "format 2 is newer .* pip install --upgrade hqvox"),
        (
            "recipe: papper\n",
            "unknown recipe 'papper'; known are: bundled, paper, paper-exact, small",
        ),
        ("pose: [\n", "hqvox.yaml:2"),
        ("just words\n", "expected 'section"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(text: str, words: str) -> None:
    with pytest.raises(HqvoxError, match=words) as error:
        load_config(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("pose.max_yaw_deg", "write it as section.key=value"),
        ("=5", "write it as section.key=value"),
        ("pose.max_yaw_deg=wide", "--set pose.max_yaw_deg: 'wide' will not do"),
        ("pose.enable=false", "--set pose.enable: unknown key; did you mean pose.enabled"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, words: str) -> None:
    with pytest.raises(HqvoxError, match=words):
        load_config("", settings=[setting])


def test_settings_are_read_as_yaml() -> None:
    assert parse_settings(["a.b=false", "a.c=1.5", "d=x y", "a.e="]) == {
        "a": {"b": False, "c": 1.5, "e": ""},
        "d": "x y",
    }
