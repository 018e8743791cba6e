"""Who counts as sitting at the machine, where nobody signs in."""

from __future__ import annotations

import pytest

from hqvox.errors import HqvoxError

pytest.importorskip("streamlit")


@pytest.mark.parametrize(
    "host", ["localhost:8501", "127.0.0.1:8501", "127.0.0.2:9000", "[::1]:8501", "[::1]", ""]
)
def test_this_machine_gets_in(host: str) -> None:
    from annotator.screens.session import _check_local

    _check_local({"Host": host} if host else {})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8501"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.168.1.2:8501"},
        {"Host": "localhost:8501", "X-Forwarded-For": "10.0.0.1"},
        {"Host": "localhost:8501", "forwarded": "for=10.0.0.1"},
    ],
    ids=["another_name", "a_name_like_it", "another_address", "proxy", "new_proxy"],
)
def test_whoever_comes_from_elsewhere_does_not(headers: dict[str, str]) -> None:
    from annotator.screens.session import _check_local

    with pytest.raises(HqvoxError, match="this request comes from elsewhere"):
        _check_local(headers)
