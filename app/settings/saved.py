"""Settings that a person saved under a name: ``HOME/settings/NAME.json``.

A file holds what was changed, as text by dotted name. It may have been edited by hand, so everything in it is checked
when it is used, against the settings it is to be applied to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from engine.config import ConfigError, EngineConfig, apply_overrides
from scenarios.own import LETTERS, NAME, checked_name
from telemetry.json_file import Unreadable, read_as, write_json

MOST_BYTES = 1 << 20


class SavedSettings(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    settings: dict[str, Annotated[str, Field(max_length=10_000)]] = Field(min_length=1, max_length=1000)


def saved_names(home: Home) -> list[str]:
    """The names there are, whether their files can be read or not; a file whose name is none is not ours."""
    return sorted(path.stem for path in home.settings.glob("*.json") if NAME.fullmatch(path.stem))


@needs(Right.KEEP)
def save_settings(home: Home, name: str, settings: Mapping[str, str], *, replace: bool = False) -> None:
    """Keep settings under a name.

    Raises:
        ScenarioError: it is no name.
        LabError: it is taken, there is nothing to save, or it cannot be written.
    """
    path = home.settings / f"{checked_name(name)}.json"
    if not settings:
        raise LabError(
            "nothing-to-save",
            field="settings",
            value=None,
            message="Every setting is the scenario's own.",
            mend="Change one; what differs from the scenario is saved.",
        )
    if path.exists() and not replace:
        raise LabError(
            "name-taken",
            field="name",
            value=name,
            message="Settings of this name are saved already.",
            mend="Take another name, or replace them.",
        )
    try:
        home.settings.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, SavedSettings(settings=dict(settings)))
    except OSError as error:
        raise LabError(
            "cannot-save", field="name", value=name, message=f"The file cannot be written: {error.strerror}."
        ) from error


def read_saved(home: Home, name: str) -> dict[str, str]:
    """The settings of a name. Raises ``LabError`` naming the file, the place in it and what is wrong there."""
    path = home.settings / f"{name}.json"
    if not NAME.fullmatch(name):
        raise _unknown(name, f"A name has {LETTERS}.")
    try:
        return read_as(SavedSettings, path, MOST_BYTES).settings
    except FileNotFoundError:
        raise _unknown(name, f"Saved are: {', '.join(saved_names(home)) or 'none'}.") from None
    except Unreadable as error:
        raise LabError(
            "bad-settings",
            field=f"{path.name}",
            value=name,
            message=f"{error}.",
            mend=f"Mend {path}, or delete it here.",
        ) from error


def fitting(base: EngineConfig, name: str, settings: Mapping[str, str]) -> EngineConfig:
    """The settings applied. Raises ``ConfigError`` that names the file, too."""
    try:
        return apply_overrides(base, settings)
    except ConfigError as error:
        raise ConfigError(f"{name}.json: {error.field}", error.value, error.message, error.mend) from None


@needs(Right.KEEP)
def delete_saved(home: Home, name: str) -> None:
    """Remove saved settings. Raises ``LabError`` for none of this name."""
    if not NAME.fullmatch(name):
        raise _unknown(name, f"A name has {LETTERS}.")
    try:
        (home.settings / f"{name}.json").unlink()
    except FileNotFoundError:
        raise _unknown(name, "They may have been deleted meanwhile.") from None


def _unknown(name: str, mend: str) -> LabError:
    return LabError(
        "unknown-settings", field="name", value=name[:80], message="No settings of this name are saved.", mend=mend
    )
