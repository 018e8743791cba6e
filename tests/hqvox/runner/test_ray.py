"""The Ray executor: the same bytes as here, and workers that die."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner import ray as on_ray
from hqvox.runner.build import plan_build
from hqvox.runner.jobs import Failed, Finished, Idle, Started, Stop, run_here
from hqvox.runner.plan import ShardJob
from hqvox.runner.worker import Event, ShardWorker
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.store import ModelStore

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


def workspace_of(root: Path, photos: Path) -> Workspace:
    text = yaml.safe_dump({"format": 1, "discover": {"photos": str(photos)}})
    rows = identities.read_folders(photos)[:2]
    return Workspace.create(str(root), text, identities.to_table(rows))


def stages(root: Path) -> dict[str, bytes]:
    files = sorted((root / "stages").rglob("*"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.slow(seconds=20)
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(1200)
def test_a_cluster_gives_the_same_bytes_as_this_process(small_world: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    for name in ("here", "ray"):
        workspace = workspace_of(tmp_path / name, small_world)
        config = workspace.config()
        jobs = plan_build(workspace, config, ModelStore())
        if name == "here":
            run_here([[job] for job in jobs], ShardWorker(workspace.url, config), events.append)
        else:
            on_ray.run_ray(workspace.url, config, jobs, events.append)
    assert sum(isinstance(event, Finished) for event in events) == 4
    assert not [event for event in events if isinstance(event, Failed)]
    assert stages(tmp_path / "here") == stages(tmp_path / "ray")
    assert len(stages(tmp_path / "ray")) == 2 * (12 + 3)


@pytest.mark.slow(seconds=20)
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(1200)
def test_a_shard_that_kills_its_workers_is_failed_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile:  # defined here, so that it travels to the workers by value
        def __init__(self, root: str, config: BuildConfig) -> None:
            pass

        def started(self) -> None:
            pass

        def run(self, version: str, jobs: Sequence[ShardJob]) -> Iterator[on_ray.Message]:
            if jobs[0].shard == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            yield Finished(jobs[0], 0.0)
            yield Idle()

    monkeypatch.setattr(on_ray, "ShardActor", Fragile)
    events: list[Event] = []
    jobs = [ShardJob(shard, 0, 1, "") for shard in ("00000", "deadly", "00002")]
    on_ray.run_ray(str(tmp_path), BuildConfig(), jobs, events.append)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.job.shard for event in failed] == ["deadly"]
    assert "3 workers died on it" in failed[0].error
    assert {e.job.shard for e in events if isinstance(e, Finished)} == {"00000", "00002"}
    deadly = [e for e in events if isinstance(e, Started) and e.job.shard == "deadly"]
    assert len(deadly) == 3


def test_a_node_of_another_version_or_without_the_workspace_stops_the_build(tmp_path: Path) -> None:
    actor = on_ray.ShardActor(str(tmp_path / "nowhere"), BuildConfig())
    job = ShardJob("00000", 0, 1, "")
    (message,) = actor.run("0.0.0", [job])
    assert isinstance(message, Stop)
    assert "install the same on every node" in message.error
    (message,) = actor.run(hqvox.__version__, [job])
    assert isinstance(message, Stop)
    assert "every node reaches" in message.error


def test_a_cluster_without_room_and_a_missing_one_are_one_line(monkeypatch: Any) -> None:
    class Small:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 2.0}

    config = BuildConfig.model_validate({"runner": {"ray_gpus": 1.0}})
    with pytest.raises(HqvoxError, match=r"too few for a worker.*runner\.ray_gpus"):
        on_ray._room(Small, config)
    assert on_ray._room(Small, BuildConfig()) == 2
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(HqvoxError, match=r"pip install 'hqvox\[ray\]'"):
        on_ray.run_ray("w", BuildConfig(), [], lambda event: None)


# A cluster that does not answer ------------------------------------------------------------------


@pytest.fixture
def alone() -> None:
    """Without a connection to a cluster, which the tests before have made."""
    ray.shutdown()


@pytest.mark.usefixtures("alone")
def test_an_address_where_nothing_listens_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(HqvoxError, match=r"Ray at .*refused; start it with") as error:
        on_ray.run_ray("w", BuildConfig(), [], print, address=f"127.0.0.1:{port}")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_an_address_that_never_answers_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    config = BuildConfig.model_validate({"runner": {"ray_wait_seconds": 5.0}})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HqvoxError, match="no answer in 5 s"):
            on_ray.run_ray("w", config, [], print, address=address)
    assert capfd.readouterr() == ("", "")  # none of Ray's own lines


def test_a_question_that_the_cluster_does_not_answer_has_an_end() -> None:
    never = threading.Event()
    with pytest.raises(HqvoxError, match=r"has not answered for 0\.05 s"):
        on_ray.within(0.05, never.wait)
    never.set()
    with pytest.raises(HqvoxError, match="cluster is gone: ValueError: invalid literal"):
        on_ray.within(60, lambda: int("x"))
    assert on_ray.within(60, lambda: 7) == 7


class Named:
    """A cluster that lists these actors, one answer after the other, the last again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.util = self

    def list_named_actors(self, all_namespaces: bool) -> list[dict[str, str]]:
        names = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [{"name": name, "namespace": "x"} for name in names]


def test_actors_of_an_earlier_build_are_waited_for() -> None:
    cluster = Named(["hqvox-a-1", "hqvox-b-1"], ["hqvox-a-1"], ["hqvox-b-1"])
    on_ray.wait_for_leftovers(cluster, "hqvox-a-", 60)
    assert cluster.answers == [["hqvox-b-1"]]
    with pytest.raises(HqvoxError, match=r"1 workers of another build .* after 0\.01 s"):
        on_ray.wait_for_leftovers(Named(["hqvox-a-1"]), "hqvox-a-", 0.01)


@pytest.mark.slow(seconds=60)
@pytest.mark.usefixtures("alone")
@pytest.mark.timeout(1200)
def test_a_node_that_dies_leaves_its_shards_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting:  # travels to the workers by value
        def __init__(self, root: str, config: BuildConfig) -> None:
            self.root = root

        def started(self) -> None:
            pass

        def run(self, version: str, jobs: Sequence[ShardJob]) -> Iterator[on_ray.Message]:
            (Path(self.root) / f"begun-{jobs[0].shard}").touch()
            while not (Path(self.root) / "go").exists():
                time.sleep(0.05)
            yield Finished(jobs[0], 0.0)
            yield Idle()

    monkeypatch.setattr(on_ray, "ShardActor", Waiting)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        events: list[Event] = []
        started: Counter[str] = Counter()

        def take(event: Event) -> None:
            events.append(event)
            if isinstance(event, Started):
                started[event.job.shard] += 1
                if started[event.job.shard] > 1:  # the death of the node was noticed
                    (tmp_path / "go").touch()

        def kill_the_node() -> None:
            until = time.monotonic() + 600
            while len(list(tmp_path.glob("begun-*"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill_the_node)
        killer.start()
        config = BuildConfig.model_validate({"runner": {"ray_wait_seconds": 10.0}})
        jobs = [ShardJob(f"{n:05d}", 0, 1, "") for n in range(4)]
        on_ray.run_ray(str(tmp_path), config, jobs, take, workers=2)
        killer.join()
        assert not [event for event in events if isinstance(event, Failed)]
        finished = sorted(e.job.shard for e in events if isinstance(e, Finished))
        assert finished == [job.shard for job in jobs]
    finally:
        ray.shutdown()
        cluster.shutdown()
