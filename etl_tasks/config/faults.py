"""Faults of settings, each as one line: ``NAME=value: what is wrong; what to write instead``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from etl_tasks.config.masking import HIDDEN, mask_secrets

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from etl_tasks.config.settings import Settings

SHOWN = 80  # characters of a wrong value that are repeated in the message
HIDDEN_WHOLE = ("PQS_PASSWORD", "CH_PASSWORD", "FLOWER_BASIC_AUTH")


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one setting, or with several together."""

    values: tuple[tuple[str, str], ...]  # NAME, value ready to be shown
    text: str

    @property
    def names(self) -> tuple[str, ...]:
        """The settings it is about."""
        return tuple(name for name, _ in self.values)

    def __str__(self) -> str:
        return f"{', '.join(f'{name}={value}' for name, value in self.values)}: {self.text}"


def shown(name: str, value: object, secret: bool = False) -> str:
    """A value as it may be printed: secrets hidden, passwords inside URLs masked, lists joined."""
    secret = secret or isinstance(value, SecretStr)
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, bool):
        return "1" if text else "0"
    if isinstance(text, tuple):
        return ",".join(text)
    if isinstance(text, float) and text.is_integer():
        return str(int(text))
    if name in HIDDEN_WHOLE or (secret and "://" not in str(text) and "=" not in str(text)):
        return HIDDEN if text else ""
    return mask_secrets(str(text))


def field_faults(error: ValidationError, given: Mapping[str, object], settings: type[Settings]) -> list[Fault]:
    """What pydantic found, in words for the person who writes the environment."""
    faults: dict[str, Fault] = {}
    fields = {name.upper(): field for name, field in settings.model_fields.items()}
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]).upper()
        if name in faults:
            continue
        if name in fields:
            secret, text = fields[name].annotation is SecretStr, _words(detail, fields[name].default)
        else:
            secret, text = True, f"is no setting; {_near(name, fields)}"
        faults[name] = Fault(((name, _excerpt(shown(name, given.get(name, ""), secret))),), text)
    return list(faults.values())


def _words(detail: ErrorDetails, default: object) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"is not a whole number; write one such as {default}"
        case "float_parsing" | "float_type" | "finite_number":
            return f"is not a number; write one such as {default:g}"
        case "bool_parsing" | "bool_type":
            return "is neither yes nor no; write 1 or 0"
        case "greater_than_equal":
            return f"is too small; write {context['ge']} or more"
        case "greater_than":
            return f"is too small; write more than {context['gt']:g}"
        case "less_than_equal":
            return f"is too large; write {context['le']} or less"
        case "literal_error":
            return f"is not one of the choices; write {context['expected'].replace(chr(39), '')}"
        case "string_too_short":
            return "is empty; write a name"
        case _:
            return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}; write one such as {default}"


def _near(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else "remove it"


def _excerpt(text: str) -> str:
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
