"""Identities from VoxCeleb's metadata, CSVs and folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace import identities

VOX1 = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
VOX2 = "Class_ID,Name,Sample_Num,Flag,Gender_x,VoxCeleb2ID,VGGFace2ID,Gender_y,Set\n"


def test_both_metadata_formats_load(tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(VOX1 + "id10001\tA.J._Buckley\tm\tIreland\tdev\n", "utf-8")
    second.write_text(VOX2 + "n9,Štefan_Füle,3,1,m,id09269,n9,m,dev\n", "utf-8")
    rows = identities.read_voxceleb([first, second])
    assert [(r["identity_id"], r["name"], r["subset"], r["row"]) for r in rows] == [
        ("id10001", "A.J._Buckley", "vox1", 0),
        ("id09269", "Štefan_Füle", "vox2", 0),
    ]
    assert rows[0]["nationality"] == "Ireland"
    assert rows[1]["gender"] == "m"


@pytest.mark.real_data
def test_all_of_voxceleb_loads(real_data_dir: Path) -> None:
    folder = real_data_dir / "voxceleb"
    rows = identities.read_voxceleb([folder / "vox1_meta.csv", folder / "full_vox2_meta.csv"])
    # The paper counts 7,363; the two files as distributed hold two more of VoxCeleb2.
    assert Counter(row["subset"] for row in rows) == {"vox1": 1251, "vox2": 6114}
    assert "Žydrūnas_Savickas" in {row["name"] for row in rows}
    table = identities.to_table(rows)
    assert len(set(table["shard"].to_pylist())) == 461
    assert len({(r["subset"], identities.safe_name(r["name"])) for r in rows}) == len(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nAnn\n", "column id missing"),
        ("id,name\n1,Ann\n1,Bob\n", "id '1' stands twice \\('Ann' and 'Bob'\\)"),
        ("id,name\n1,Ann\n,Bob\n", ":3: the id is empty"),
        ("id,name\n1,\n", ":2: the name is empty"),
        ("", "column id and name missing"),
        ("id,name,name\n1,Ann,Bob\n", "column 'name' stands twice"),
        ('id,name\n1,"' + "Ann\n" * 50_000, "a quote that is left open"),
        ("id,name,folder\n1,Ann,../Bob\n", ":2: folder '../Bob' leads out"),
        ("id,name,folder\n1,Ann,/etc\n", ":2: folder '/etc' leads out"),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "i.csv"
    file.write_text(text)
    with pytest.raises(HqvoxError, match=words) as error:
        identities.read_csv(file)
    assert str(file) in str(error.value)


def test_csv_with_every_column_and_quoted_newline(tmp_path: Path) -> None:
    file = tmp_path / "i.csv"
    file.write_text('id,name,gender,folder\n7,"Ann\nLee",F,a b\n8,Bo,,\n')
    rows = identities.read_csv(file)
    assert rows[0]["name"] == "Ann\nLee"
    assert rows[0]["gender"] == "f"
    assert rows[0]["folder"] == "a%20b"
    assert rows[1]["gender"] is None
    assert rows[1]["folder"] is None


def test_folders_with_any_bytes_in_their_names(tmp_path: Path) -> None:
    for name in (b"Zo\xc3\xab", b'O\'Neil "x"\n', b"\xff\xfe", b".hidden", b"_several"):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    rows = identities.read_folders(tmp_path)
    assert [row["name"] for row in rows] == ['O\'Neil "x"\n', "Zoë", "%FF%FE"]
    assert rows[2]["folder"] == "%FF%FE"


def test_no_folders_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HqvoxError, match="one folder of photographs per identity"):
        identities.read_folders(tmp_path)
    with pytest.raises(HqvoxError, match="No such file"):
        identities.read_folders(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("A.J._Buckley", "A.J._Buckley"),
        ("Štefan_Füle", "Štefan_Füle"),
        ("O'Neil-Smith", "O'Neil-Smith"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("..", "__"),
        ("a\nb\x00c", "a_b_c"),
        ("", "_"),
        ("gpj.\u202eAda\u202c_\u200fB\u2069", "gpj.Ada_B"),
        ("a\x9bb", "a_b"),
        ("CON", "_CON"),
        ("nul.jpg", "_nul.jpg"),
        ("Lpt1", "_Lpt1"),
        ("Conrad", "Conrad"),
    ],
)
def test_safe_names_stay_in_their_folder(name: str, safe: str) -> None:
    assert identities.safe_name(name) == safe


def test_people_marked_as_minors_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,name,minor\na,Ann,no\nb,Bob,YES\nc,Cem,\nd,Dan,1\ne,Eve,0\n")
    table = identities.to_table(identities.read_csv(file))
    assert table["identity_id"].to_pylist() == ["a", "c", "e"]
    assert table["row"].to_pylist() == [0, 2, 4]
    assert "minor" not in table.schema.names
    file.write_text("id,name,minor\na,Ann,perhaps\n")
    with pytest.raises(HqvoxError, match=r"people\.csv:2: minor 'perhaps': yes or no, 1 or 0"):
        identities.read_csv(file)
    file.write_text("id,name,minor\na,Ann,true\n")
    with pytest.raises(HqvoxError, match="no identities"):
        identities.to_table(identities.read_csv(file))
