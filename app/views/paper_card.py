"""One paper's card: what it is about, how it works, what it claims, and where its knobs are in this lab."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from app.components.address import keep_in_address
from app.errors import nearest
from app.lab import Lab
from app.papers import NOT_OURS, UNCHECKED, WEIGHTS, address, techniques, titles
from app.views.paper_claim import claim_here
from app.views.papers import all_papers_button, badges, open_button
from app.words.plain import counted, plain
from scenarios import ScenarioError, papers
from scenarios.papers.card import Card, Knob


def paper_card(lab: Lab, name: str) -> None:
    """Draw the card of this name; where there is none, say which are like it."""
    keep_in_address({}, view=f"paper {name}")
    all_papers_button()
    try:
        card = papers.card(name)
    except ScenarioError:
        _unknown(name)
        return
    st.title(plain(card.system), anchor=False)
    with st.container(key="paper"):
        _head(card)
        claim_here(lab, name)
        _part("Problem", plain(card.problem))
        _part("How it works", plain(card.mechanism))
        st.code(card.diagram.rstrip("\n"), language=None, wrap_lines=False)
        _claims(card)
        _knobs(card)
        _part("What to watch", _list(card.watch))
        _part("What must hold", plain(card.check))
        if card.simplified:
            _part("What is simpler here", _list(card.simplified))
        if card.related:
            _part("Related")
            _links(card.related)


def _unknown(name: str) -> None:
    like_it = nearest(name, papers.names())
    st.title("Papers", anchor=False)
    words = f"There is no card {name!r}. {'Did you mean one of these?' if like_it else 'All papers lists every card.'}"
    st.error(plain(words), icon=":material/search_off:")
    _links(like_it)


def _head(card: Card) -> None:
    link = address(card)
    st.markdown(f"**{plain(card.title)}**")
    st.markdown(badges(card) + (f" · [arXiv {card.arxiv}]({link})" if link else ""))
    if card.reason:
        st.info(f"Explained, not run here. {plain(card.reason)}", icon=":material/menu_book:")
    st.caption(f"Weights: {WEIGHTS[card.weights]}.")


def _claims(card: Card) -> None:
    _part("What the paper claims")
    st.caption(NOT_OURS)
    rows = [
        {
            "Claim": plain(claim.says),
            "Figure": f"**{plain(claim.figure)}**",
            "Setup": plain(claim.setup),
            "Source": f":orange-badge[{plain(claim.source)}]" if claim.source == UNCHECKED else plain(claim.source),
        }
        for claim in card.claims
    ]
    with st.container(key="paper-claims"):
        st.table(rows, border="horizontal", hide_index=True, alt="The paper's claims")
    unchecked = sum(claim.source == UNCHECKED for claim in card.claims)
    if unchecked:
        verb = "comes" if unchecked == 1 else "come"
        st.warning(
            f"{counted(unchecked, 'figure')} {verb} from background knowledge and "
            f"{'was' if unchecked == 1 else 'were'} "
            "not read again in the paper.",
            icon=":material/warning:",
        )


def _knobs(card: Card) -> None:
    rows = [{"In the paper": plain(knob.paper), "In this lab": _here(knob)} for knob in card.knobs]
    _part("Knobs")
    with st.container(key="paper-knobs"):
        st.table(rows, border="horizontal", hide_index=True, alt="The paper's knobs and the lab's settings")
    with st.container(horizontal=True):
        for path, title in techniques().items():
            if path in card.techniques:
                st.page_link(
                    "pages/live.py",
                    label=f"Live with {plain(title)}",
                    icon=":material/monitoring:",
                    query_params={"technique": path},
                    width="content",
                    help="The start panel, with this technique switched on.",
                )


def _here(knob: Knob) -> str:
    """What a knob is in this lab, as Markdown."""
    here = f"{plain(titles().get(knob.setting, ''))} `{knob.setting}`" if knob.setting else "none"
    return f"{here}. {plain(knob.note)}" if knob.note else here


def _links(names: Iterable[str]) -> None:
    with st.container(horizontal=True):
        for name in names:
            card = papers.card(name)
            open_button(name, card, card.system)


def _part(title: str, text: str = "") -> None:
    st.subheader(title, anchor=False)
    if text:
        st.markdown(text)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)
