"""The variants of a comparison: which settings differ between them, and each one's value of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.components.fields import begin
from app.experiments.plan import WORKLOAD, Variant
from app.home import Home
from app.runs.facts import differences
from app.settings import controls as book
from app.settings.controls import Control
from app.settings.sweep_values import control_title
from app.settings.widgets import draw_control
from app.views.exchange_settings import named_sets, values_of_set
from app.views.kept_fields import KeptFields, whole
from app.words.plain import plain
from engine.config import ConfigError, EngineConfig, apply_overrides
from telemetry.refusal import Refusal, in_words, with_field

MOST_SIDES = 6
MOST_NAME = 80
MOST_LETTERS = 60  # of a name that is written
LETTERS = "ABCDEF"


@dataclass(frozen=True)
class Sides:
    """The variants as they are set; ``fit``: every one can be served."""

    variants: list[Variant]
    fit: bool


class VariantsForm:
    """The form while it is drawn.

    Args:
        engine: what the variants' own settings are applied to.
        asked: the technique that differs if nothing else is said.
        usual: the same for the scenario alone, without what a link asks for.
        first: whether the reader came with this scenario, and so with the switches that the address names.
    """

    def __init__(
        self, home: Home, kept: KeptFields, engine: EngineConfig, scenario: str, asked: str, usual: str, *, first: bool
    ) -> None:
        self.home, self.kept, self.engine, self.first = home, kept, engine, first
        self.asked, self.usual = asked, usual
        self.place = f"{scenario}-{asked}"
        self.known = {control.path: control for control in book.in_list()}
        self.problem = f"side-problem-{self.place}"

    def draw(self) -> Sides:
        several = self.kept.begin("sides", 2, whole(2, MOST_SIDES))
        count = int(st.number_input("How many", 2, MOST_SIDES, several, key="compare-count"))
        self.kept.note("sides", count, 2)
        differ = self._differing()
        if self.problem in st.session_state:
            st.error(plain(st.session_state.pop(self.problem)), icon=":material/error:")
        places, sides = [], []
        for n in range(count):
            with st.container(border=True, gap="small"):
                places.append(st.container())
                sides.append(self._side(n, differ))
        usual = names_by_difference(self.engine, sides)
        variants = []
        for n, (place, side) in enumerate(zip(places, sides, strict=True)):
            begun = self.kept.begin(f"{n}.name", "", str)[:MOST_LETTERS]
            name = place.text_input("Name", begun, key=f"side-{n}", max_chars=MOST_LETTERS, placeholder=usual[n])
            self.kept.note(f"{n}.name", name, "")
            variants.append(Variant((name or "").strip() or usual[n], side))
        return Sides(variants, not any(book.complaints(self.engine, side) for side in sides))

    def _differing(self) -> list[str]:
        """Which settings differ, by path."""
        key = f"differ-{self.place}"
        begin(key, self.kept.begin("differ", [self.asked], self._paths) if self.first else [self.asked])
        differ = st.multiselect(
            "What differs",
            list(self.known),
            format_func=lambda path: control_title(self.known[path], self.known),
            key=key,
            persist_state="session",
            help="Each variant below has its own value of these; everything else is the same for all.",
        )
        self.kept.note("differ", ",".join(differ), self.usual)
        return list(differ)

    def _paths(self, text: str) -> list[str]:
        paths = [path for path in text.split(",") if path]
        if not set(paths) <= set(self.known):
            raise ValueError(text)
        return paths

    def _side(self, n: int, differ: Sequence[str]) -> dict[str, str]:
        """Draw a variant's controls; how it differs from what all share."""
        sets = named_sets(self.home)
        st.selectbox(
            "Preset",
            list(sets),
            index=None,
            format_func=lambda one: sets.get(one, one),
            placeholder="served as ...",
            key=f"side-{n}-from-{self.place}",
            on_change=self._take,
            args=(n,),
            help="Takes the settings of a known system, or those you saved, for this variant.",
        )
        values: dict[str, Any] = {}
        drawn: list[tuple[Control, Any]] = []
        for path in sorted(differ, key=list(self.known).index):
            control, technique = self.known[path], path.rpartition(".")[0]
            if technique and not values.get(technique, book.value_of(self.engine, technique)):
                continue
            usual = self._usual(n, path, self.asked)
            name = f"{n}.{path}"
            begun = self._read(control, self.kept.begin(name, "", str), usual) if self.first else usual
            place = st.container()
            with place:
                values[path] = draw_control(control, self._key(n, path), begun)
            plainly = book.as_text(control, self._usual(n, path, self.usual))
            self.kept.note(name, book.as_text(control, values[path]), plainly)
            drawn.append((control, place))
        side = book.overrides(self.engine, values)
        self._complain(book.complaints(self.engine, side), drawn)
        return side

    def _usual(self, n: int, path: str, technique: str) -> Any:
        return n == 0 if path == technique else book.value_of(self.engine, path)

    def _read(self, control: Control, text: str, usual: Any) -> Any:
        """A value as the address has it; ``usual`` where it has none, or nonsense."""
        if control.kind in ("switch", "technique") and text not in ("on", "off"):
            return usual
        try:
            return book.from_text(control, text) if text else usual
        except (ValueError, KeyError):
            return usual

    def _complain(self, wrong: Mapping[str, ConfigError], drawn: Sequence[tuple[Control, Any]]) -> None:
        places = {control.path: place for control, place in drawn}
        for path, error in wrong.items():
            if path in places:
                places[path].error(plain(book.at_the_control(error)), icon=":material/error:")
            else:
                st.error(plain(with_field(error)), icon=":material/error:")

    def _take(self, n: int) -> None:
        """Give a variant the settings of a preset: what these change differs from now on."""
        chosen = st.session_state.get(f"side-{n}-from-{self.place}")
        if chosen is None:
            return
        st.session_state[f"side-{n}-from-{self.place}"] = None
        try:
            values = values_of_set(self.home, self.engine, chosen)
        except Refusal as error:
            st.session_state[self.problem] = with_field(error) if error.field else in_words(error)
            return
        differ = st.session_state[f"differ-{self.place}"]
        changed = book.overrides(self.engine, values)
        st.session_state[f"differ-{self.place}"] = [*differ, *(path for path in changed if path not in differ)]
        for path, value in values.items():
            st.session_state[self._key(n, path)] = value

    def _key(self, n: int, path: str) -> str:
        return f"side-{n}-{path}-{self.place}"


def names_by_difference(engine: EngineConfig, sides: Sequence[Mapping[str, str]]) -> list[str]:
    """What tells each side from the others, in a few words; letters where nothing does, or where it cannot be said yet.

    ``engine``: what the sides' settings are applied to.
    """
    try:
        served = [apply_overrides(engine, {k: v for k, v in s.items() if not k.startswith(WORKLOAD)}) for s in sides]
    except ConfigError:
        return list(LETTERS[: len(sides)])
    names = []
    for n, one in enumerate(served):
        words = [word for other in served for word in differences(one, other)]
        words += [f"{key}={value}" for key, value in sides[n].items() if key.startswith(WORKLOAD)]
        names.append(", ".join(dict.fromkeys(words))[:MOST_NAME] or LETTERS[n])
    return [f"{LETTERS[n]}: {name}" if names.count(name) > 1 else name for n, name in enumerate(names)]
