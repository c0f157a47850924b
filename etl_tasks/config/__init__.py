"""Settings: every name, default, unit and old name; checked once at start, all faults at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from etl_tasks.config.describe import SettingRow, describe
from etl_tasks.config.environment import OLD_NAMES, read_environment
from etl_tasks.config.masking import mask_secrets
from etl_tasks.config.settings import Settings
from etl_tasks.errors import ConfigError

__all__ = ["OLD_NAMES", "ConfigError", "SettingRow", "Settings", "describe", "load_settings", "mask_secrets"]


def load_settings(env: Mapping[str, str] | None = None, env_file: str | Path | None = None) -> Settings:
    """The settings in force; raises ConfigError that lists all faults, one a line.

    Without arguments: the process environment over ``.env`` in the working directory (or the file that ``ETL_ENV_FILE``
    names). With ``env`` only that mapping is read, and a file only when it is named. ``settings.warnings`` says what to
    mend.
    """
    known = {name.upper() for name in Settings.model_fields}
    return Settings(_reading=read_environment(known, env, env_file, Settings.secret_names()))
