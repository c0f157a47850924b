"""A journal of each test's own in the real PostgreSQL of the development stack."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.integration.journal.world import World


@pytest.fixture(scope="session")
def dsn(stack_env: dict[str, str]) -> str:
    """How to reach PostgreSQL."""
    return stack_env["PG_DSN"]


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    """Empty tables in a schema of this test's own."""
    made = World(dsn, f"journal_{uuid.uuid4().hex[:12]}")
    yield made
    made.drop()
