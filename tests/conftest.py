"""The services that tests need: the development stack, brought up once a session. Missing at home: skipped; in
CI: failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devstack.errors import DevstackError
from devstack.stack import Stack


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
    made.set_overload(False)


@pytest.fixture(scope="session")
def stack_env(stack: Stack) -> dict[str, str]:
    """The settings with which tests reach the stack."""
    return stack.env()
