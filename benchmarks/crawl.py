"""Speed of a crawl, from fetching to storing, and its memory over time.

Run: python benchmarks/crawl.py                    (one core against nginx, no latency)
     python benchmarks/crawl.py --latency-ms 200   (rate reached, and the rate that latency allows)
     python benchmarks/crawl.py --urls 100000 --files 20   (memory; each file under many urls)
     python benchmarks/crawl.py --urls 2400 --beside PROGRAM   (img2dataset's program)

nginx serves JPEGs of about 83 kB on the loopback address. With latency, or without nginx, a small
server in this script serves them. The crawl runs in a process bound to one core, the server on the
others. On a busy machine, photographs per second of the crawl's CPU time estimate the rate on an
idle core.

With ``--beside``, ``hqvox build --stage download`` and img2dataset take turns on the same core and
the same photographs. Each command runs with all its processes. The server's log says when
photographs were sent, so the start of a program does not count as fetching. img2dataset is told to
keep the bytes as they are and to write tars, as hqvox does; otherwise it has its defaults.
``--setting`` changes them: without ``extract_exif`` it only fetches, hashes and stores, with
``disable_all_reencoding=False`` it decodes.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import multiprocessing
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from hqvox.config.build import BuildConfig
from hqvox.runner.build import plan_build
from hqvox.runner.crawl.crawler import CrawlOrder, crawl
from hqvox.runner.worker import Crawling
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.store import ModelStore

PHOTO_BYTES = 83_000
PER_IDENTITY = 300
SENT = "sent.log"
"""The server's log: the moment of each photograph, in seconds since 1970."""
SAMPLE_SECONDS = 0.05
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  log_format moment '$msec'; access_log {folder}/sent.log moment;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ }}
  default_type image/jpeg;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; root {folder}/photos; }}
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--urls", type=int, default=9_600)
    parser.add_argument("--files", type=int, default=2_400, help="different photographs")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--beside", metavar="PROGRAM", help="compare with this img2dataset")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison")
    parser.add_argument("--threads", type=int, default=64, help="of img2dataset")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="of img2dataset"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        make_photos(root / "photos", options.files)
        latency = options.latency_ms / 1000
        cores = sorted(os.sched_getaffinity(0))
        with serve(root, latency, set(cores[1:]) or set(cores)) as port:
            if options.beside:
                compare(root, port, cores[0], options)
            else:
                measure(make_workspace(root, port, options), cores[0], options)


def make_photos(folder: Path, count: int) -> None:
    """JPEGs of one size that differ in their last bytes."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    picture = Image.fromarray(noise).resize((960, 720), Image.Resampling.BICUBIC)
    best = b""
    for quality in range(95, 10, -5):
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=quality)
        best = sink.getvalue()
        if len(best) <= PHOTO_BYTES - 8:
            break
    for number in range(count):
        data = best + number.to_bytes(PHOTO_BYTES - len(best), "big")
        (folder / f"{number}.jpg").write_bytes(data)


@contextmanager
def serve(root: Path, latency: float, cores: set[int]) -> Iterator[int]:
    """The photographs on a free port, by nginx where that is possible."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if latency == 0 and Path(NGINX).exists():
        print("server: nginx")
        config = root / "nginx.conf"
        config.write_text(CONFIG.format(folder=root, port=port))
        server = subprocess.Popen([NGINX, "-c", str(config), "-p", str(root)])
        pid = server.pid

        def stop() -> None:
            server.terminate()
            server.wait(10)
    else:
        print(f"server: a small one of this script, {1000 * latency:.0f} ms before each answer")
        child = multiprocessing.get_context("spawn").Process(
            target=run_server, args=(root / "photos", port, latency, root / SENT)
        )
        child.start()
        assert child.pid is not None
        pid = child.pid

        def stop() -> None:
            child.terminate()
            child.join(10)

    try:
        os.sched_setaffinity(pid, cores)
        wait_for(port)
        yield port
    finally:
        stop()


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server does not come up")


def run_server(folder: Path, port: int, latency: float, log: Path) -> None:
    """Answer each request after ``latency`` seconds; log the moment of each photograph sent."""
    sent = open(log, "w", buffering=1)  # noqa: SIM115 - as long as the process
    photos = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().split("?")[0]
                await asyncio.sleep(latency)
                status, body = ("200", photos[path]) if path in photos else ("404", b"")
                writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
                if body:
                    sent.write(f"{time.time():.3f}\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", port, backlog=512)
        await server.serve_forever()

    asyncio.run(run())


def make_workspace(
    root: Path, port: int, options: argparse.Namespace, name: str = "w"
) -> Workspace:
    """Candidates of as many identities as it takes, 300 each."""
    count = -(-options.urls // PER_IDENTITY)
    (root / "people.csv").write_text("id,name\n" + "".join(f"p{n},p{n}\n" for n in range(count)))
    with open(root / "urls.csv", "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("identity_id", "url"))
        for n in range(options.urls):
            url = f"http://127.0.0.1:{port}/{n % options.files}.jpg?n={n}"
            writer.writerow((f"p{n // PER_IDENTITY}", url))
    values = {
        "format": 1,
        "discover": {"sources": ["urls"], "urls": {"file": str(root / "urls.csv")}},
        "download": {
            "contact": "benchmark@localhost",
            "allow_hosts": [f"127.0.0.1:{port}"],
            "connections": options.connections,
            "host_connections": options.connections,
            "host_requests_per_second": 10_000.0,
        },
    }
    people = identities.to_table(identities.read_csv(root / "people.csv"))
    return Workspace.create(str(root / name), yaml.safe_dump(values), people)


def measure(workspace: Workspace, core: int, options: argparse.Namespace) -> None:
    """Crawl in a process on one core, and print what it did."""
    config = workspace.config()
    jobs = plan_build(workspace, config, ModelStore(), target="download")
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    order = CrawlOrder(tuple(jobs))
    child = context.Process(target=run_crawl, args=(workspace.url, config, order, core, results))
    child.start()
    wall, cpu, memory, last = results.get()
    child.join()
    done = last.fetched
    print(f"{done} of {options.urls} urls fetched, {last.bytes / 1e6:.0f} MB, failed {last.failed}")
    print(f"{done / wall:.0f} photographs/s in {wall:.1f} s on core {core}")
    print(f"{done / cpu:.0f} photographs per second of CPU time ({1e3 * cpu / done:.2f} ms each)")
    if options.latency_ms:
        allowed = options.connections / (options.latency_ms / 1000)
        print(f"latency allows {allowed:.0f}/s: {100 * done / wall / allowed:.0f} % reached")
    parts = [memory[min(len(memory) - 1, len(memory) * k // 4)] for k in range(5)]
    print("memory, MB, at quarters of the time: " + ", ".join(f"{m:.0f}" for m in parts))


def run_crawl(
    root: str,
    config: BuildConfig,
    order: CrawlOrder,
    core: int,
    results: multiprocessing.SimpleQueue,
) -> None:
    """The crawling process: wall and CPU seconds, memory over time, and the last report."""
    os.sched_setaffinity(0, {core})
    reports: list[Crawling] = []
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not over.wait(0.5):
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, started = cpu_seconds(), time.perf_counter()
    crawl(root, config, order, lambda e: reports.append(e) if isinstance(e, Crawling) else None)
    wall, cpu = time.perf_counter() - started, cpu_seconds() - before
    over.set()
    watcher.join()
    results.put((wall, cpu, memory, reports[-1]))


@dataclass(frozen=True)
class Turn:
    """What one program did in one round."""

    photos: int
    rate: float
    """Photographs a second, from the first one sent to the last."""
    cpu_ms: float
    """CPU time for each photograph, between the same moments."""
    memory_mb: float
    """Peak over time of the sum over its processes, each page shared among those that use it."""
    seconds: float
    """Of the whole command."""


def compare(root: Path, port: int, core: int, options: argparse.Namespace) -> None:
    """Let hqvox and img2dataset take turns, and print the medians."""
    turns: dict[str, list[Turn]] = {"hqvox": [], "img2dataset": []}
    for number in range(options.rounds):
        names = list(turns) if number % 2 == 0 else list(turns)[::-1]
        for name in names:
            folder = root / f"{name}{number}"
            if name == "hqvox":
                workspace = make_workspace(root, port, options, folder.name)
                build = ["-m", "hqvox.cli.app", "build", workspace.url, "--stage", "download"]
                command = [sys.executable, *build]
            else:
                command = beside_command(root, port, folder, options)
            turn = take_turn(command, root, core)
            turns[name].append(turn)
            load = os.getloadavg()[0]
            print(
                f"round {number + 1}, {name}: {turn.photos} photographs, {turn.rate:.0f}/s, "
                f"{turn.cpu_ms:.2f} ms of CPU each, {turn.memory_mb:.0f} MB, whole command "
                f"{turn.seconds:.1f} s (load {load:.1f})",
                flush=True,
            )
            shutil.rmtree(folder)
    ours, theirs = turns.values()
    for label, value in (
        ("photographs a second", lambda turn: turn.rate),
        ("photographs per second of CPU time", lambda turn: 1000 / turn.cpu_ms),
        ("memory, MB", lambda turn: turn.memory_mb),
        ("seconds of the whole command", lambda turn: turn.seconds),
    ):
        a, b = [value(turn) for turn in ours], [value(turn) for turn in theirs]
        print(f"{label}: hqvox {spread(a)}, img2dataset {spread(b)}, ", end="")
        print(f"ratio {statistics.median(a) / statistics.median(b):.2f}")


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def beside_command(root: Path, port: int, folder: Path, options: argparse.Namespace) -> list[str]:
    """img2dataset's command line: bytes as they came, in tars, with their SHA-256."""
    urls = root / "urls.txt"
    lines = [f"http://127.0.0.1:{port}/{n % options.files}.jpg?n={n}" for n in range(options.urls)]
    urls.write_text("\n".join(lines) + "\n")
    settings = {
        "url_list": urls,
        "output_folder": folder,
        "output_format": "webdataset",
        "disable_all_reencoding": True,
        "processes_count": 1,
        "thread_count": options.threads,
        **dict(setting.split("=", 1) for setting in options.setting),
    }
    return [options.beside, *(f"--{name}={value}" for name, value in settings.items())]


def take_turn(command: list[str], root: Path, core: int) -> Turn:
    """Run a command with all its processes on one core."""
    log = root / SENT
    before = log.stat().st_size if log.exists() else 0
    samples: list[tuple[float, float, float]] = []
    started = time.perf_counter()
    with open(root / "output.txt", "wb") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    while child.poll() is None:
        samples.append((time.time(), *used_by(child.pid)))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    moments = sorted(float(line) for line in log.read_bytes()[before:].split())
    if child.returncode or len(moments) < 2:
        raise SystemExit((root / "output.txt").read_text()[-2000:])
    first, last = moments[0], moments[-1]
    times, cpu, memory = map(list, zip(*samples, strict=True))
    grown = np.maximum.accumulate(cpu)  # a process that has just ended is missing in a sample
    spent = float(np.interp(last, times, grown) - np.interp(first, times, grown))
    photos = len(moments)
    return Turn(photos, photos / (last - first), 1e3 * spent / photos, max(memory), seconds)


def used_by(pid: int) -> tuple[float, float]:
    """CPU seconds so far, and megabytes in memory now, of a process and those below it."""
    cpu = memory = 0.0
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu = sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")  # own, and of ended children
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        memory = int(rollup.partition("\nPss:")[2].split()[0]) * 1024 / 1e6
        below = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    except (OSError, IndexError):  # it has ended meanwhile
        return cpu, memory
    for child in below.split():
        parts = used_by(int(child))
        cpu, memory = cpu + parts[0], memory + parts[1]
    return cpu, memory


def cpu_seconds() -> float:
    """CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
