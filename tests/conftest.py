"""The services that tests need: the development stack, brought up once a session. Missing at home: skipped; in
CI: failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from devstack import config
from devstack.errors import DevstackError
from devstack.stack import Stack

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PORTS_A_STACK = 100
# gw0, gw1 …; empty where pytest runs without xdist.
NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw") or 0)

if NUMBER:
    # The first process uses the stack that `make up` starts; each other one has its own beside it.
    first = config.load()
    os.environ["DEVSTACK_PORT_BASE"] = str(min(port.number for port in first.ports.values()) + PORTS_A_STACK * NUMBER)
    os.environ["DEVSTACK_DIR"] = f"{first.state_dir}-{NUMBER}"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole stack, up, in its ordinary form. It stays up afterwards: the next session is ready at once."""
    made = Stack.load()
    try:
        made.up(overload=False)
    except DevstackError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the development stack is not to be had here: {error}")
    yield made
    if NUMBER:
        made.down()
    else:
        made.set_overload(False)


@pytest.fixture(scope="session")
def stack_env(stack: Stack) -> dict[str, str]:
    """The settings with which tests reach the stack."""
    return stack.env()
