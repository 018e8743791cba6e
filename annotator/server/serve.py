"""Starting the review UI: a Streamlit server in this process, with our settings."""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from annotator.candidates.index import OnProgress
from annotator.log.access import Actor, TokenFile
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

APP = Path(__file__).parents[1] / "app.py"
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
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(
            address.strip("[]"), 0, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise HqvoxError(f"{address}: no address of this machine ({error.strerror})") from None
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
                raise HqvoxError(
                    f"{address}, port {candidate}: cannot be used ({error.strerror}); choose "
                    "another with --address and --port"
                ) from None
            return candidate
    raise HqvoxError(f"ports {tried[0]} to {tried[-1]} are all taken; choose another with --port")


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
    """Run the app in this process until it is stopped."""
    from streamlit import config
    from streamlit.web import bootstrap

    # The command `streamlit run` does no more; it has no function of its own for callers.
    config._main_script_path = str(APP)
    settings = streamlit_settings(workspace, options, address, port, browser)
    flags = {key.replace(".", "_"): value for key, value in settings.items()}
    bootstrap.load_config_options(flags)
    bootstrap.run(str(APP), False, options.arguments(), flags)
