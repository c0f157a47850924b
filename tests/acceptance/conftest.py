"""A deployment of its own for every acceptance test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devstack.deployment import Deployment, deployed
from devstack.stack import Stack


@pytest.fixture
def deploy(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """``deploy("name", ENV="value")`` makes an empty deployment; it goes with the test."""
    with ExitStack() as made:
        yield lambda name, **settings: made.enter_context(deployed(stack, name, tmp_path, **settings))


@pytest.fixture
def ordinary_afterwards(stack: Stack) -> Iterator[None]:
    """The Query Server goes back to its ordinary form."""
    yield
    stack.set_overload(False)
