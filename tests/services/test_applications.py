"""Serve is started once in a cluster, and what it was started with stays."""

import pytest

from services.applications import HttpAddress, start


def test_a_serve_without_a_proxy_gets_none_later(cluster):
    start()
    with pytest.raises(RuntimeError, match="Serve runs on this cluster without an HTTP proxy"):
        start(HttpAddress("127.0.0.1", 8100))
