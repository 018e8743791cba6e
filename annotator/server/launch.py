"""What the review UI is started with, and who may reach it.

On a loopback address whoever has the address that the command printed, with its token, is the
lead. On any other it starts only where people have to sign in: with a named token, or with an
account that an OpenID provider vouches for and that ``review.allow`` of hqvox.yaml names.
"""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True)
class Options:
    """The app's arguments after ``--``."""

    workspace: str
    name: str | None = None
    """Who decides, where nobody signs in; default: the user's name."""
    sign_in: bool = False
    """Ask for a sign-in on a loopback address too, as behind a reverse proxy."""

    def arguments(self) -> list[str]:
        """The command line that :meth:`parse` reads."""
        name = [] if self.name is None else [f"--as={self.name}"]
        return [*name, *(["--sign-in"] if self.sign_in else []), "--", self.workspace]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        """From a command line. Raises HqvoxError where it is not one."""
        parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
        parser.add_argument("workspace")
        parser.add_argument("--as", dest="name")
        parser.add_argument("--sign-in", action="store_true")
        try:
            known, unknown = parser.parse_known_args(list(arguments))
        except (argparse.ArgumentError, SystemExit):
            known, unknown = None, []
        if known is None or unknown:
            raise HqvoxError(
                f"the app was given {' '.join(arguments) or 'nothing'!r}; start it with "
                "`hqvox review WORKSPACE`, or "
                "`streamlit run annotator/app.py -- WORKSPACE --sign-in`"
            )
        return cls(known.workspace, known.name, known.sign_in)


def is_loopback(address: str | None) -> bool:
    """Whether only this machine reaches ``address``; None, as Streamlit has it, is every address.

    A name other than localhost never counts as loopback: it may resolve to another address.
    """
    if address == "localhost":
        return True
    try:
        return address is not None and ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def secrets_files(workspace: Workspace) -> list[Path]:
    """Where OpenID's settings may be, first come first served."""
    local = [Path(workspace.url) / ".streamlit/secrets.toml"] if workspace.storage.local else []
    return [*local, Path.home() / ".streamlit/secrets.toml"]


def has_openid(workspace: Workspace) -> bool:
    """Whether an OpenID provider is configured: ``[auth]`` in one of :func:`secrets_files`.

    Raises HqvoxError where such a file is no TOML.
    """
    for file in secrets_files(workspace):
        try:
            if tomllib.loads(file.read_text()).get("auth"):
                return True
        except OSError:
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise HqvoxError(f"{file}: is not TOML ({error}); correct it or move it away") from None
    return False


def must_sign_in(address: str | None, options: Options) -> bool:
    """Whether nobody gets in without a sign-in."""
    return options.sign_in or not is_loopback(address)


def check_access(address: str | None, options: Options, tokens: bool, openid: bool) -> None:
    """Raises HqvoxError where the app would be open to anyone who reaches its address.

    ``tokens``: whether the workspace has any; ``openid``: whether a provider is configured and
    somebody is allowed.
    """
    if must_sign_in(address, options) and not tokens and not openid:
        where = "--sign-in" if is_loopback(address) else f"the address {address or '(all)'}"
        raise HqvoxError(
            f"{where} needs people to sign in, and nobody can yet; make a token for each with "
            f"`hqvox review token add {options.workspace} NAME`, or configure OpenID "
            "(docs/review.md)"
        )


def user_name() -> str:
    """The user's name on this machine, as the default annotator."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id that no name belongs to, as in containers
        return "local"
