"""Starting the review UI: a Streamlit server in this process, with our settings.

On SIGTERM and Ctrl-C it ends within :data:`STOP_SECONDS`, also with browsers connected. Every
decision is one transaction, so one that is being written then is there or not, and a browser that
got no acknowledgement sends it again.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from annotator.candidates.index import OnProgress
from annotator.log.access import Actor, TokenFile
from annotator.server.credentials import credentials, entrance
from annotator.server.launch import (
    LOOPBACK_NAMES,
    Options,
    check_access,
    has_openid,
    must_sign_in,
    secrets_files,
    user_name,
)
from annotator.server.opened import Shared, opened
from annotator.work.packs import piece_soon, pieces
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

SCRIPT = Path(__file__).parents[1] / "script.py"
STOP_SECONDS = 0.8
"""How long the server may take to end, s; then the process ends as it is."""
LARGEST_MESSAGE = 4 << 20
"""Most bytes of one message from a browser; an act has a few thousand."""
PORT = 8501
PORTS_TRIED = 50


def prepare(
    workspace: Workspace, options: Options, address: str, port: int | None, on_progress: OnProgress
) -> int:
    """Check everything, and open the workspace; the port to serve at.

    Raises HqvoxError where there is nothing to review, where anybody could get in, or where the
    address cannot be used.
    """
    config = workspace.config()
    Actor(options.name or user_name(), "lead")
    if must_sign_in(address, options):
        tokens = workspace.storage.local and bool(TokenFile(workspace).names())
        check_access(address, options, tokens, has_openid(workspace) and bool(config.review.allow))
    chosen = free_port(address, port)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(_open, options.workspace, on_progress)
        import streamlit.web.bootstrap  # noqa: F401  takes a second, as opening may
    parts = opening.result()
    candidates = parts.candidates
    if candidates.identities:
        _make_ahead(parts, Actor(options.name or user_name(), "lead"))
        return chosen
    need = config.release.min_faces
    if candidates.unfinished:
        raise HqvoxError(
            f"{workspace.url}: the build is not through ({len(candidates.unfinished):,} shards are "
            f"left), and nobody has {need} candidates yet; run `hqvox build {workspace.url}` first"
        )
    raise HqvoxError(
        f"{workspace.url}: nobody has the {need} candidates that a decision needs; see why with "
        f"`hqvox report {workspace.url}`"
    )


def _open(root: str, on_progress: OnProgress) -> Shared:
    return opened(root, on_progress).parts()


def _make_ahead(parts: Shared, actor: Actor) -> None:
    """Begin with the pictures of who probably is first, while server and browser start."""
    identity_id = parts.queue.peek(actor)
    for piece in pieces(parts.candidates, identity_id) if identity_id else ():
        piece_soon(parts.candidates, piece)


def url(address: str, port: int) -> str:
    """What to type into a browser on another machine, or on this one where no other gets in."""
    host = address.strip("[]")
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def free_port(address: str, port: int | None) -> int:
    """``port``, or where None is asked for the first free one from 8501 on.

    Raises HqvoxError where it is taken, or the address is none of this machine's.
    """
    tried = range(PORT, PORT + PORTS_TRIED) if port is None else [port]
    family, kind, protocol, _, resolved = _resolve(address)
    for candidate in tried:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((resolved[0], candidate, *resolved[2:]))
            except PermissionError:
                raise HqvoxError(
                    f"port {candidate} may not be used by this user; choose one above 1023"
                ) from None
            except OSError as error:
                if port is None and error.errno == errno.EADDRINUSE:
                    continue
                raise _cannot_be_used(address, candidate, error) from None
            return candidate
    raise HqvoxError(f"ports {tried[0]} to {tried[-1]} are all taken; choose another with --port")


def _resolve(address: str) -> tuple[Any, ...]:
    try:
        return socket.getaddrinfo(address.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise HqvoxError(f"{address}: no address of this machine ({error.strerror})") from None


def _cannot_be_used(address: str, port: int, error: OSError) -> HqvoxError:
    return HqvoxError(
        f"{address}, port {port}: cannot be used ({error.strerror}); choose another with "
        "--address and --port"
    )


def streamlit_settings(
    workspace: Workspace, options: Options, address: str, port: int, browser: bool
) -> dict[str, Any]:
    """Streamlit's settings, by their names in config.toml; they win over any file."""
    settings: dict[str, Any] = {
        "server.address": address,
        "server.port": port,
        "server.headless": not browser,
        "server.enableXsrfProtection": True,
        "server.enableCORS": True,  # the name is misleading: on, other origins are refused
        "server.maxUploadSize": 0,
        "server.enableStaticServing": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.showEmailPrompt": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "client.showSidebarNavigation": False,
        "runner.magicEnabled": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "warning",
        "secrets.files": [str(file.absolute()) for file in secrets_files(workspace)],
    }
    if not must_sign_in(address, options):  # a proxy passes the public name on
        settings["server.allowedHosts"] = [*LOOPBACK_NAMES, address]
    return settings


def serve(workspace: Workspace, options: Options, address: str, port: int, browser: bool) -> None:
    """Run the app in this process until it is stopped.

    Raises HqvoxError where something else took the port in the meantime.
    """
    import uvicorn
    from streamlit import cli_util, config
    from streamlit.web import bootstrap

    # As `streamlit run` does, which has no function of its own for callers.
    config._main_script_path = str(SCRIPT)
    settings = streamlit_settings(workspace, options, address, port, browser)
    bootstrap.load_config_options({key.replace(".", "_"): v for key, v in settings.items()})
    sys.argv = [str(SCRIPT), *options.arguments()]
    known = credentials()

    from annotator.app import app

    class Server(uvicorn.Server):
        """Opens the browser once it serves, and ends without raising the signal again."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if browser and self.started:
                first = entrance(url(address, port), known.local, once=True)
                threading.Thread(target=cli_util.open_browser, args=(first,), daemon=True).start()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.stop) for number in STOP_SIGNALS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def stop(self, number: int, frame: FrameType | None) -> None:
            self.should_exit = True
            # Script runs, and pictures that are being made, end with the process.
            end = threading.Timer(STOP_SECONDS, os._exit, (0,))
            end.daemon = True
            end.start()

    server = Server(
        uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=LARGEST_MESSAGE,
            ws_per_message_deflate=False,
            access_log=False,
            log_config=None,
            ssl_certfile=config.get_option("server.sslCertFile"),
            ssl_keyfile=config.get_option("server.sslKeyFile"),
            timeout_graceful_shutdown=1,  # more than there is: see STOP_SECONDS
        )
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    with _bound(address, port) as listening:
        server.run(sockets=[listening])


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _bound(address: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there. Raises HqvoxError where it cannot."""
    family, kind, protocol, _, resolved = _resolve(address)
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((resolved[0], port, *resolved[2:]))
        except OSError as error:
            raise _cannot_be_used(address, port, error) from None
        listening.listen()
        listening.setblocking(False)
        yield listening
