"""Recipes: the paper's numbers, what each changes, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.recipes import load_train_config, recipe_names

ABLATIONS = {
    "sf2f-64-no-l1": {"loss.l1.weight": 0},
    "sf2f-64-no-gan": {"loss.gan.weight": 0},
    "sf2f-64-no-classifier": {"loss.classifier.weight": 0},
    "sf2f-64-no-perceptual": {"loss.perceptual.weight": 0},
    "sf2f-64-baseline-encoder": {"model.encoder": "plain"},
    "sf2f-64-baseline-decoder": {"model.decoder": "deconvolution"},
}


def flat(config: TrainConfig) -> dict[str, object]:
    def walk(values: dict, above: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in values.items():
            name = f"{above}{key}"
            found |= walk(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return found

    return walk(config.model_dump())


def changed(name: str, from_: str) -> dict[str, object]:
    ours, theirs = flat(load_train_config(name)), flat(load_train_config(from_))
    return {k: v for k, v in ours.items() if v != theirs[k] and k != "recipe"}


def test_sf2f_64_has_the_numbers_of_table_13_and_section_5() -> None:
    config = load_train_config("sf2f-64")
    weights = [getattr(config.loss, n).weight for n in ("l1", "gan", "classifier", "perceptual")]
    assert weights == [10, 1, 0.05, 100]
    assert config.loss.perceptual.network == "facenet_vggface2"
    assert config.loss.perceptual.level_weights == (1 / 16, 1 / 8, 1 / 4, 1)
    assert (config.optimiser.learning_rate, config.optimiser.betas) == (5e-4, (0.9, 0.98))
    assert config.optimiser.clip_norm is None
    assert (config.stage1.iterations, config.stage1.batch_size) == (120_000, 256)
    assert config.stage1.crop_frames == (100, 150)
    assert (config.stage2.iterations, config.stage2.seconds) == (360, (6, 25))
    assert (config.stage2.window_frames, config.stage2.stride_frames) == (125, 63)
    assert config.model.embedding_dim == 512
    assert changed("sf2f-64", "sf2f-64") == {}
    assert flat(config) == flat(TrainConfig()), "the defaults are the paper's too"


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_an_ablation_changes_one_thing(name: str) -> None:
    assert changed(name, "sf2f-64") == ABLATIONS[name]


def test_voice2face_of_the_cmu_code_has_its_own_data_settings() -> None:
    config = load_train_config("voice2face-cmu")
    assert config.model.n_filters == config.model.embedding_dim == 64
    assert config.stage1.crop_frames == (300, 800)
    assert config.stage1.batch_size == 128
    assert (config.optimiser.learning_rate, config.optimiser.betas) == (2e-4, (0.5, 0.999))
    data = config.data
    assert (data.normalise, data.short, data.flip) == ("utterance", "repeat", True)
    assert (data.front_end, data.draw) == ("voice2face", "apart")
    assert config.loss.l1.weight == config.loss.perceptual.weight == 0
    assert (config.stage1.iterations, config.stage1.freeze_encoder) == (50_000, True)
    assert config.optimiser.first == "critics"


def test_avp_gan_has_the_numbers_of_its_paper() -> None:
    config = load_train_config("avp-gan-64")
    assert (config.optimiser.learning_rate, config.optimiser.betas) == (2e-4, (0.5, 0.999))
    assert (config.stage1.iterations, config.stage1.batch_size) == (50_000, 128)
    assert (config.stage1.crop_frames, config.data.flip) == ((300, 800), True)
    assert (config.data.front_end, config.data.draw) == ("voice2face", "apart")
    assert config.optimiser.first == "critics"
    assert (config.loss.gan.weight, config.loss.classifier.weight) == (1, 1)
    assert config.loss.l1.weight == config.loss.perceptual.weight == 0
    model = config.model
    assert (model.discriminators, model.decoder, model.attention) == ("avp_gan", "avp_gan", True)
    assert (model.n_filters, model.embedding_dim, config.stage1.freeze_encoder) == (64, 64, True)
    assert changed("avp-gan-64-no-cbam", "avp-gan-64") == {"model.attention": False}


def test_a_recipe_says_what_its_small_version_changes(tmp_path: Path) -> None:
    for name in ("avp-gan-64-tiny", "avp-gan-64-no-cbam-tiny"):
        config = load_train_config(name)
        assert (config.loss.gan.weight, config.loss.classifier.weight) == (1, 1)
        assert config.stage1.iterations == 3000
    # One of the user's own has no small version, so a section for it is an error.
    (tmp_path / "mine.yaml").write_text("extends: avp-gan-64\ntiny: {seed: 3}\n")
    with pytest.raises(HqvoxError, match="tiny"):
        load_train_config(tmp_path / "mine.yaml")


def test_a_voice_encoder_alone_has_no_other_losses() -> None:
    assert load_train_config("voice-embedding").task == "speakers"
    with pytest.raises(HqvoxError, match=r"task=speakers and model\.decoder=upsampling do not fit"):
        load_train_config("sf2f-64", ["task=speakers"])
    with pytest.raises(HqvoxError, match=r"set loss\.gan\.weight=0"):
        load_train_config("voice-embedding", ["loss.gan.weight=1"])


def test_voice2face_as_sf2f_trained_it() -> None:
    config = load_train_config("voice2face-64")
    assert (config.loss.l1.weight, config.model.n_filters, config.model.embedding_dim) == (
        100, 40, 512,
    )  # fmt: skip
    assert config.model.fuser is None
    assert config.stage2.iterations == 0


@pytest.mark.parametrize("name", recipe_names(tiny=False))
def test_every_recipe_has_a_tiny_version_that_is_the_same_but_small(name: str) -> None:
    whole, tiny = load_train_config(name), load_train_config(f"{name}-tiny")
    assert tiny.recipe == f"{name}-tiny"
    assert tiny.model.width < whole.model.width
    assert tiny.stage1.batch_size <= 16
    assert tiny.loss.perceptual.network == "dlib_resnet"
    for term in ("l1", "gan", "classifier", "perceptual"):
        assert bool(getattr(tiny.loss, term).weight) == bool(getattr(whole.loss, term).weight)
    assert bool(tiny.stage2.iterations) == bool(whole.stage2.iterations)
    structure = ("encoder", "decoder", "fuser", "resolutions", "n_filters", "discriminators")
    for key in structure:
        assert getattr(tiny.model, key) == getattr(whole.model, key)
    assert (tiny.stage1.crop_frames, tiny.data) == (whole.stage1.crop_frames, whole.data)
    assert tiny.model.spec().encoder == tiny.model.encoder


def test_the_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = load_train_config("sf2f-128-multires", ["loss.gan.weight=2", "seed=7"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_train_config(file) == config
    assert load_train_config(str(file), ["seed=8"]).seed == 8


def test_a_recipe_of_ones_own_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: sf2f-64\nloss: {l1: {weight: 3}}\n")
    (tmp_path / "mine.yaml").write_text(f"extends: {tmp_path}/base.yaml\nseed: 4\n")
    config = load_train_config(tmp_path / "mine.yaml")
    assert (config.recipe, config.seed, config.loss.l1.weight) == ("mine", 4, 3)
    (tmp_path / "base.yaml").write_text(f"extends: {tmp_path}/mine.yaml\n")
    with pytest.raises(HqvoxError, match="extends itself"):
        load_train_config(tmp_path / "mine.yaml")


def test_numbers_are_read_as_people_write_them() -> None:
    given = ["optimiser.learning_rate=5e-4", "stage1.iterations=1e3", "optimiser.betas=[0, 9e-1]"]
    config = load_train_config("sf2f-64", given)
    assert config.optimiser.learning_rate == 5e-4
    assert config.stage1.iterations == 1000
    assert config.optimiser.betas == (0, 0.9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "loss.l1.weight=-1",
            r"--set loss\.l1\.weight: -1 .*greater than or equal to 0 \[lambda 1",
        ),
        ("loss.l1.wieght=1", r"unknown key; did you mean loss\.l1\.weight"),
        ("loss.l1=3", "it is a section, with the keys weight"),
        ("stage1.batch_size=0", "greater than or equal to 1"),
        ("stage1.batch_size=2.5", "valid integer"),
        ("stage1.crop_frames=[150,100]", "must rise"),
        ("stage2.seconds=[25,6]", "must rise"),
        ("optimiser.learning_rate=fast", "valid number"),
        ("optimiser.betas=[0.9]", "should be longer"),
        ("optimiser.betas=[0.9,1]", "below 1"),
        ("model.encoder=best", "'inception', 'plain'"),
        ("model.resolutions=[32]", "64 or 128"),
        ("model.resolutions=[128,64]", "must rise"),
        ("model.fuser=null", r"set stage2\.iterations=0"),
        ("loss.perceptual.network=vgg", "'facenet_vggface2' or 'dlib_resnet'"),
        ("speed.compile=maybe", "True, False or 'auto'"),
        ("recipe=sf2f-128", "name the recipe itself"),
        ("seed", "write it as section.key=value"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_range(setting: str, message: str) -> None:
    with pytest.raises(HqvoxError, match=message) as caught:
        load_train_config("sf2f-64", [setting])
    assert "\n" not in str(caught.value)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(HqvoxError, match="nothing to train"):
        load_train_config("sf2f-64", ["stage1.iterations=0", "stage2.iterations=0"])
    with pytest.raises(HqvoxError, match="every loss has weight 0"):
        load_train_config(
            "voice2face-64", [f"loss.{n}.weight=0" for n in ("l1", "gan", "classifier")]
        )
    with pytest.raises(HqvoxError, match="gives one resolution"):
        load_train_config("sf2f-128-multires", ["model.decoder=deconvolution"])


def test_unknown_recipes_and_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match=r"no recipe 'sf2f-32'; there are .*sf2f-64, .*-tiny"):
        load_train_config("sf2f-32")
    with pytest.raises(HqvoxError, match="No such file"):
        load_train_config(tmp_path / "none.yaml")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("loss:\n  l1:\n    weight: much\n")
    with pytest.raises(HqvoxError, match=r"wrong\.yaml:3: loss\.l1\.weight: 'much'"):
        load_train_config(wrong)
