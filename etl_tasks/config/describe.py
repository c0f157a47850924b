"""The settings as rows: for ``config``, the README's table and ``.env.example``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from etl_tasks.config.faults import shown
from etl_tasks.config.settings import Settings


@dataclass(frozen=True)
class SettingRow:
    """One setting as it may be shown to anybody: secrets are hidden."""

    name: str
    value: str
    default: str
    origin: str
    unit: str
    description: str
    group: str
    secret: bool


def describe(settings: Settings) -> list[SettingRow]:
    """All settings in the order in which they are defined, group by group."""
    rows = []
    origins = settings.origins
    for attribute, field in Settings.model_fields.items():
        name = attribute.upper()
        extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(settings, attribute)
        rows.append(
            SettingRow(
                name=name,
                value=shown(name, value),
                default=shown(name, field.default),
                origin=origins[name],
                unit=str(extra["unit"]),
                description=field.description or "",
                group=str(extra["group"]),
                secret=isinstance(value, SecretStr),
            )
        )
    return rows
