"""The commands as a user types them: what they print, and one line for every mistake."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.text import Text

import hqvox
from hqvox.cli.app import escape_line, main
from hqvox.cli.common import console, listed, say, text_table
from hqvox.config.file import load_config, recipe_names
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from models.registry import of_recipe
from models.store import ModelStore
from pipelines.chain import Stages


@pytest.fixture
def hq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line; return exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hqvox", *map(str, arguments)])
        monkeypatch.setattr(console, "_width", 200)
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def one_line(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 1, result
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("Ann", "Bob"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_text("not a picture")
    return folder


def test_version_and_help(hq) -> None:
    assert hq("--version")[1].strip() == hqvox.__version__
    code, out, _ = hq("--help")
    assert code == 0
    for command in ("init", "build", "status", "explain", "release", "stats", "report", "demo"):
        assert f" {command} " in out


def test_init_build_status(hq, photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    code, out, _ = hq("init", work, "--photos", photos)
    assert code == 0
    assert "2 identities" in out
    assert "a:b: 2 identities" in hq("init", tmp_path / "a:b", "--photos", photos)[1]
    code, out, _ = hq("build", work, "--dry-run")
    assert code == 0
    assert "discover: not built yet" in out
    assert not (work / "stages").exists()
    code, out, _ = hq("build", work, "--stage", "download", "--workers", "0")
    assert code == 0
    assert "not_an_image 2" in out
    code, out, _ = hq("build", work, "--stage", "download")
    assert "up to date" in out
    code, out, _ = hq("status", work)
    assert "not_an_image 2" in out
    assert "are not up to date" in out


def test_few_photographs_get_wider_limits_unless_a_recipe_is_named(
    hq, photos: Path, tmp_path: Path
) -> None:
    code, out, _ = hq("init", tmp_path / "few", "--photos", photos)
    assert code == 0
    assert "1 photograph a person: using the recipe small" in out
    assert yaml.safe_load((tmp_path / "few/hqvox.yaml").read_text())["recipe"] == "small"
    hq("init", tmp_path / "named", "--photos", photos, "--recipe", "bundled")
    assert yaml.safe_load((tmp_path / "named/hqvox.yaml").read_text())["recipe"] == "bundled"
    for number in range(2, 101):
        (photos / "Ann" / f"{number}.jpg").touch()
    hq("init", tmp_path / "many", "--photos", photos)
    assert yaml.safe_load((tmp_path / "many/hqvox.yaml").read_text())["recipe"] == "bundled"


def test_init_mistakes(hq, photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert "nothing to start from: give --photos" in one_line(hq("init", work))
    assert "name is empty" in one_line(hq("init", "", "--photos", photos))
    assert not work.exists()
    message = one_line(hq("init", work, "--photos", photos, "--recipe", "papper"))
    assert "unknown recipe 'papper'; known are: bundled, paper, paper-exact, small" in message
    message = one_line(hq("init", work, "--photos", photos, "--set", "pose.max_yaw=3"))
    assert "did you mean pose.max_yaw_deg" in message
    hq("init", work, "--photos", photos)
    assert "a workspace is already here" in one_line(hq("init", work, "--photos", photos))
    (tmp_path / "file").touch()
    message = one_line(hq("init", tmp_path / "file", "--photos", photos))
    assert "a file stands where a folder is needed; choose another place" in message
    doubled = tmp_path / "i.csv"
    doubled.write_text("id,name\n1,Ann\n1,Bob\n")
    assert "stands twice" in one_line(hq("init", tmp_path / "x", "--identities", doubled))


def test_init_leaves_out_people_marked_as_minors(hq, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("id,name,minor\na,Ann,no\nb,Bob,yes\n")
    work = tmp_path / "work"
    assert "1 identity; left out: 1 marked as minors" in hq("init", work, "--identities", people)[1]
    assert Workspace.open(work).identities()["identity_id"].to_pylist() == ["a"]


def test_build_mistakes(hq, photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert "no workspace here" in one_line(hq("build", work))
    hq("init", work, "--photos", photos)
    assert "unknown stage 'poze'" in one_line(hq("build", work, "--stage", "poze"))
    assert "--only needs --stage" in one_line(hq("build", work, "--only"))
    assert "--only pose: stage discover" in one_line(hq("build", work, "--stage", "pose", "--only"))
    late_start = ("build", work, "--from", "align", "--to", "pose")
    assert "--from align comes after --to pose" in one_line(hq(*late_start))
    config = work / "hqvox.yaml"
    config.write_text(config.read_text() + "pose:\n  max_yaw_dge: 3\n")
    line = len(config.read_text().splitlines())
    message = one_line(hq("config", "check", work))
    assert f"hqvox.yaml:{line}: pose.max_yaw_dge" in message
    config.write_text("format: 99\n")
    assert "newer than this hqvox reads" in one_line(hq("build", work))


def test_photographs_that_are_gone_stop_a_build_before_it_loses_anything(
    hq, photos: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    hq("init", work, "--photos", photos)
    hq("build", work, "--stage", "download", "--workers", "0")
    before = {p: p.read_bytes() for p in (work / "stages").rglob("*.*")}
    photos.rename(tmp_path / "elsewhere")
    assert "is not there, or empty; bring it back" in one_line(hq("build", work))
    assert "is not there, or empty" in one_line(hq("release", work, "v1", "--auto"))
    code, out, _ = hq("status", work)
    assert code == 0
    assert f"{photos}: the folder of photographs is not there, or empty; bring it back" in out
    assert "not up to date" not in out
    photos.mkdir()
    assert "is not there, or empty; bring it back" in one_line(hq("build", work))
    assert {p: p.read_bytes() for p in (work / "stages").rglob("*.*")} == before


def test_the_paper_recipe_without_its_weights_is_one_line(
    hq, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    hq("init", work, "--photos", photos, "--recipe", "paper")
    message = one_line(hq("build", work))
    assert "hqvox models pull" in message
    assert "fan_2d_4" in message
    assert not (work / "stages").exists()


def test_voxceleb_metadata(hq, tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid1\tA.J._B\tm\tX\tdev\n")
    two.write_text("Class_ID,Name,Gender_x,VoxCeleb2ID,Set\nn1,Štefan_Füle,m,id2,dev\n")
    work = tmp_path / "work"
    code, out, _ = hq("init", work, "--voxceleb", one, two)
    assert code == 0, out
    assert "2 identities" in out
    code, out, _ = hq("init", tmp_path / "twice", "--voxceleb", one, "--voxceleb", two)
    assert code == 0, out
    assert "2 identities" in out
    code, out, _ = hq("build", work, "--workers", "0", "--stage", "landmarks")
    assert code == 0
    assert "identities without photos: A.J._B, Štefan_Füle" in out


def test_config_show_says_what_differs(hq, photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    hq("init", work, "--photos", photos, "--set", "pose.max_yaw_deg=7")
    assert yaml.safe_load((work / "hqvox.yaml").read_text())["pose"] == {"max_yaw_deg": 7}
    code, out, _ = hq("config", "show", work)
    assert code == 0
    row = next(line for line in out.splitlines() if "pose.max_yaw_deg" in line)
    assert "7" in row
    assert "5.0" in row
    assert "degrees (paper: 5)" in row
    columns = next(line for line in out.splitlines() if "pupils.min_ipd_px" in line)
    assert "default" not in columns


def test_set_mistakes_name_the_keys_there_are() -> None:
    with pytest.raises(HqvoxError, match="--set pose: 3 will not do: it is a section, with the k"):
        load_config("", settings=["pose=3"])
    assert load_config("", settings=["pose=3", "pose.max_yaw_deg=4"]).pose.max_yaw_deg == 4
    with pytest.raises(HqvoxError, match="yaml:3: pose stands already in line 1; put both into o"):
        load_config("pose: {max_yaw_deg: 5}\nalign: {}\npose: {max_pitch_deg: 3}\n")
    with pytest.raises(HqvoxError, match=r"pose\.x: unknown key"):
        load_config("pose: &loop\n  x: *loop\n")


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_registry_knows_what_each_recipe_loads(recipe: str, tmp_path: Path) -> None:
    stages = Stages(load_config("", recipe=recipe), ModelStore(tmp_path))
    assert set(of_recipe(recipe)) == {name for stage in stages for name in stage.networks}


def test_commands_start_without_the_networks() -> None:
    code = "import sys, hqvox.cli.app; print([m for m in ('torch', 'timm') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_doctor_names_what_is_missing(hq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path))
    code, out, _ = hq("doctor")
    assert code == 0
    assert "recipe bundled" in out
    assert "ready" in out
    assert "type: hqvox models pull" in out


def test_an_error_is_one_line_whatever_is_in_it() -> None:
    assert escape_line("a\nb\x1b[31m[bold]") == r"a b?\[31m\[bold]"


@pytest.mark.parametrize("arguments", [["--help"], ["status", "WORKSPACE"]])
def test_pandas_is_not_imported_to_run_a_command(
    arguments: list[str], photos: Path, tmp_path: Path, hq
) -> None:
    assert hq("init", tmp_path / "w", "--photos", photos)[0] == 0
    arguments = [str(tmp_path / "w") if a == "WORKSPACE" else a for a in arguments]
    code = (
        "import sys\n"
        "from hqvox.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'hqvox.workspace.layout' in sys.modules\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120)


def test_what_names_hold_is_text_in_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]Ann[/bold] :b: \x1b[31m\r"
    made = text_table(("who", "faces"), [(name, "7"), (Text("Bob", "red"), "12")], align="lr")
    Console(file=sys.stdout, width=80, emoji=False).print(made)
    say(f"{name}\nnext: rm")
    out = capsys.readouterr().out
    assert out.count("[bold]Ann[/bold] :b: ?[31m?") == 2
    assert "\x1b" not in out
    assert "\r" not in out
    assert "?next: rm" in out
    assert "     7 │" in out
    assert "    12 │" in out


def test_a_list_of_names_is_cut_and_the_rest_counted() -> None:
    assert listed([], 2) == ""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_a_limit_says_in_build_status_and_report_what_it_left_out(
    hq, photos: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for number in range(4):
        (photos / "Ann" / f"more{number}.jpg").touch()
    hq("init", work, "--photos", photos, "--set", "discover.limit=2")
    line = "discover.limit left out 3 photographs of your own"
    assert line in hq("build", work, "--to", "discover", "--workers", "0")[1]
    assert line in hq("status", work)[1]
    assert hq("report", work, "--out", tmp_path / "it.html")[0] == 0
    assert line in (tmp_path / "it.html").read_text()


def test_ctrl_c_during_the_imports_is_no_traceback() -> None:
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hqvox.cli.release':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "import hqvox.cli.app\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    # Afterwards it is Python's again: it ends a command with a line, and workers by themselves.
    code = "import signal, hqvox.cli.app; print(signal.getsignal(signal.SIGINT))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "default_int_handler" in done.stdout


@pytest.mark.parametrize("command", ["--version", "doctor --help", "config show {work}"])
def test_a_full_standard_output_is_one_line(hq, photos: Path, tmp_path: Path, command: str) -> None:
    hq("init", tmp_path / "work", "--photos", photos)
    words = command.format(work=tmp_path / "work").split()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hqvox.cli.app", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("hqvox: standard output: the disk is full")
    assert done.stderr.count("\n") == 1, done.stderr


def test_control_sequences_in_names_do_not_reach_the_terminal(
    hq, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where explain leaves its picture
    nasty = tmp_path / "\x1b[31mred\x1b]0;title\x07\u202eno"
    photos.rename(nasty)
    work = tmp_path / "w\x1b[2J"
    out = "".join(hq("init", work, "--photos", nasty)[1:])
    for command in ("status", "build --dry-run", "build --stage download --workers 0", "explain"):
        words = command.split()
        named = ["Ann"] if words[0] == "explain" else []
        out += "".join(hq(words[0], work, *named, *words[1:])[1:])
    nasty.rename(tmp_path / "away")
    out += "".join(hq("status", work)[1:]) + "".join(hq("build", work)[1:])
    assert "?[31mred" in out
    assert not set(out) & set("\x1b\x07\u202e"), out


def test_runs_are_looked_for_here_by_default(
    hq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = one_line(hq("runs"))
    assert f"{tmp_path}: no run of `hqvox train` here" in message


def test_one_of_a_thing_is_said_so(hq, tmp_path: Path) -> None:
    (tmp_path / "photos/Ann").mkdir(parents=True)
    (tmp_path / "photos/Ann/1.jpg").touch()
    out = hq("init", tmp_path / "w", "--photos", tmp_path / "photos")[1]
    assert "1 photograph a person" in out
    assert ": 1 identity\n" in out


def test_a_dry_run_says_how_many_photographs_it_would_look_for(
    hq, photos: Path, tmp_path: Path
) -> None:
    hq("init", tmp_path / "w", "--photos", photos)
    out = hq("build", tmp_path / "w", "--dry-run")[1]
    assert "2 identities in 2 shards to look for, all photographs each" in out
    out = hq("build", tmp_path / "w", "--dry-run", "--set", "discover.limit=1")[1]
    assert "2 identities in 2 shards to look for, up to 1 photograph each" in out
