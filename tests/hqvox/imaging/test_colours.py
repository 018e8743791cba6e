from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from hqvox.imaging.codec import UndecodableError, decode, read_header, srgb_profile
from hqvox.imaging.pictures import encode_jpeg

# Columns: XYZ of red, green and blue under D50, as the profiles of the ICC and Apple give them.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
ADOBE_GAMMA = 563 / 256


def linear(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


def profile(columns: np.ndarray, curve: bytes) -> bytes:
    """A display profile of three colours and one tone curve."""

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *[round(v * 65536) for v in values])

    text = b"test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(np.array([0.9642, 1, 0.8249])),
        **{name: xyz(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytearray(128)
    head[8:12] = b"\x02\x10\0\0"
    head[12:24] = b"mntrRGB XYZ "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    whole = bytes(head) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def srgb_curve() -> bytes:
    values = np.round(linear(np.linspace(0, 1, 4096)) * 65535).astype(int)
    return b"curv\0\0\0\0" + struct.pack(">I", 4096) + struct.pack(">4096H", *values)


def colours() -> np.ndarray:
    """Colours of skin, hair and cloth, sRGB."""
    rng = np.random.default_rng(0)
    patches = rng.integers(60, 216, (8, 8, 3))
    return np.kron(patches, np.ones((16, 16, 1))).astype(np.uint8)


def in_space(picture: np.ndarray, columns: np.ndarray) -> np.ndarray:
    light = linear(picture / 255) @ SRGB.T @ np.linalg.inv(columns).T
    return np.clip(light, 0, 1)


def saved(pixels: np.ndarray, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(sink, form, **options)
    return sink.getvalue()


def versions() -> dict[str, bytes]:
    picture = colours()
    adobe = in_space(picture, ADOBE) ** (1 / ADOBE_GAMMA)
    p3 = encoded(in_space(picture, P3))
    return {
        "plain": saved(picture / 255, "PNG"),
        "srgb": saved(picture / 255, "PNG", icc_profile=srgb_profile()),
        "adobe": saved(adobe, "PNG", icc_profile=profile(ADOBE, gamma_curve(ADOBE_GAMMA))),
        "p3": saved(p3, "PNG", icc_profile=profile(P3, srgb_curve())),
    }


def test_a_picture_has_the_same_colours_in_every_space():
    for name, data in versions().items():
        assert np.abs(decode(data).astype(int) - colours()).max() <= 2, name


@pytest.mark.parametrize("name", ["plain", "srgb"])
def test_a_picture_in_srgb_keeps_its_bits(name):
    assert np.array_equal(decode(versions()[name]), colours())


def test_the_profile_counts_when_a_jpeg_is_reduced_too():
    p3 = encoded(in_space(colours(), P3))
    data = saved(
        p3, "JPEG", quality=98, subsampling=0, icc_profile=profile(P3, srgb_curve())
    )  # fmt: skip
    middle = np.s_[4::8, 4::8]
    reduced = decode(data, 64)[middle].astype(int)
    assert np.abs(reduced - colours()[8::16, 8::16]).max() <= 4


@pytest.mark.parametrize(
    "damaged",
    [b"no profile", profile(ADOBE, gamma_curve(2.2))[:200], bytes(600), profile(P3, b"curv")],
)
def test_a_damaged_profile_is_ignored(damaged):
    data = saved(colours() / 255, "PNG", icc_profile=damaged)
    assert np.array_equal(decode(data), colours())


def test_a_profile_of_other_channels_is_ignored():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(
        decode(saved(colours() / 255, "PNG", icc_profile=lab)), colours()
    )  # fmt: skip


def test_transparency_stays_with_a_profile():
    adobe = in_space(colours(), ADOBE) ** (1 / ADOBE_GAMMA)
    half = np.concatenate([adobe, np.zeros((128, 128, 1))], axis=2)
    half[:, 64:, 3] = 1
    data = saved(half, "PNG", icc_profile=profile(ADOBE, gamma_curve(ADOBE_GAMMA)))
    pixels = decode(data).astype(int)
    assert (pixels[:, :64] == 255).all()
    assert np.abs(pixels[:, 64:] - colours()[:, 64:]).max() <= 2


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_is_converted(form):
    sink = io.BytesIO()
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(sink, form)
    red, green, blue = decode(sink.getvalue()).mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 60


def test_heic_is_read_upright_and_in_srgb():
    p3 = encoded(in_space(colours()[:, :96], P3))
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.round(p3 * 255).astype(np.uint8)).save(
        sink,
        "HEIF",
        quality=-1,
        exif=exif.tobytes(),
        icc_profile=profile(P3, srgb_curve()),
    )
    header = read_header(sink.getvalue())
    assert (header.media_type, header.width_px, header.height_px) == ("image/heif", 128, 96)
    pixels = decode(sink.getvalue()).astype(int)
    assert np.abs(pixels - np.rot90(colours()[:, :96], -1)).max() <= 5


def test_a_damaged_heic_is_undecodable():
    sink = io.BytesIO()
    Image.fromarray(colours()).save(sink, "HEIF")
    with pytest.raises(UndecodableError):
        decode(sink.getvalue()[: len(sink.getvalue()) // 2])


def test_a_written_jpeg_says_that_it_is_srgb():
    data = encode_jpeg(colours(), 95)
    with Image.open(io.BytesIO(data)) as image:
        profile_of = image.info["icc_profile"]
    assert profile_of == srgb_profile() == srgb_profile()
    read = ImageCms.ImageCmsProfile(io.BytesIO(profile_of))
    assert "sRGB" in ImageCms.getProfileDescription(read)
