"""``servescope papers`` and ``papers show``: the cards of papers on LLM serving."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.commands.console import Json, command, emit, say, stdout, table

if TYPE_CHECKING:
    from rich.table import Table

    from app.claims.judge import Judgement
    from scenarios.papers.card import Card

WIDEST = 100  # columns of text
WIDE = 112  # columns from which on the table has a column for everything

papers = typer.Typer(help="Papers on LLM serving, a card each.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    from app.commands import paper_runs

    paper_runs.register(papers)
    app.add_typer(papers, name="papers")


@papers.callback(invoke_without_command=True)
@command
def list_papers(
    context: typer.Context,
    status: Annotated[
        Literal["runs", "explained"] | None, typer.Option(help="Only those that run here, or that are explained only.")
    ] = None,
    paper_class: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="Only of this class, such as scheduling.")
    ] = None,
    technique: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this switch of the lab, such as chunked_prefill.")
    ] = None,
    json: Json = False,
) -> None:
    """List the papers that the lab has cards of; papers show NAME prints one."""
    if context.invoked_subcommand is not None:
        return
    from app.papers import CLASSES, Wanted, find, one_of, techniques
    from scenarios.papers import names

    asked = Wanted(
        paper_class=one_of("--class", paper_class, CLASSES),
        technique=one_of("--technique", technique, techniques()),
        status=status,
    )
    cards = find(asked)
    if json:
        emit({"papers": [_line(name, card) for name, card in cards.items()]})
        return
    if not cards:
        say("No card is like that.")
        return
    out = stdout()
    out.print(_table(cards, wide=out.width >= WIDE))
    say(f"{len(cards)} of {len(names())} cards. One of them: servescope papers show {next(iter(cards))}")


@papers.command()
@command
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A card's name, as servescope papers lists it.")],
    json: Json = False,
) -> None:
    """Print one paper's card, and the verdicts on its claim here."""
    from app.claims.records import judgements_in
    from app.home import Home
    from scenarios.papers import card

    paper = card(name)
    verdicts = judgements_in(Home.from_environment(), name)
    if json:
        emit({"name": name} | paper.model_dump(by_alias=True) | {"verdicts": [one.as_dict() for one in verdicts]})
    else:
        _print(paper, _said(verdicts))


def _line(name: str, card: Card) -> dict[str, Any]:
    """A card as the list has it."""
    known = card.model_dump(by_alias=True)
    keys = ("system", "title", "year", "arxiv", "class", "tier", "techniques", "weights", "status")
    return {"name": name} | {key: known[key] for key in keys}


def _table(cards: Mapping[str, Card], *, wide: bool) -> Table:
    """The list as a table; on a narrow terminal the system stands below the name. No word is broken."""
    from app.papers import STATUSES

    rows = []
    for name, card in cards.items():
        called = (name, textwrap.fill(card.system, 28)) if wide else (f"{name}\n{textwrap.fill(card.system, 22)}",)
        group = textwrap.fill(card.paper_class, 13)
        rows.append((*called, card.year, group, "\n".join(card.techniques), STATUSES[card.status]))
    columns = (*(("name", "system") if wide else ("name, system",)), "year", "class", "techniques", "status")
    return table(columns, rows, whole=columns)


def _said(verdicts: Iterable[Judgement]) -> list[str]:
    """The verdicts, one paragraph each."""
    from app.claims.words import heading

    return [f"{heading(one)}: {' '.join(one.evidence['reasons'])}" for one in verdicts]


def _print(card: Card, verdicts: Sequence[str]) -> None:
    from rich.text import Text

    out = stdout()
    for part in _lines(card, min(out.width, WIDEST), verdicts):
        out.print(Text(part), no_wrap=True, overflow="ignore", crop=False)


def _lines(card: Card, width: int, verdicts: Sequence[str]) -> list[str]:
    """The card line by line, texts broken at ``width``, the diagram as it is."""
    from app.papers import NOT_OURS, STATUSES, WEIGHTS, address, titles

    def said(text: str, first: str = "", rest: str = "") -> list[str]:
        about = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=rest)
        about.break_long_words = about.break_on_hyphens = False
        return about.wrap(text)

    def listed(texts: Sequence[str]) -> list[str]:
        return [line for text in texts for line in said(text, "- ", "  ")]

    known = titles()
    lines = said(f"{card.system}: {card.title}")
    lines += said(f"{card.year}, {card.paper_class}, {STATUSES[card.status]}; {WEIGHTS[card.weights]}.")
    lines += [
        *filter(None, [address(card)]),
        "",
        "Problem",
        *said(card.problem),
        "",
        "Mechanism",
        *said(card.mechanism),
    ]
    lines += ["", *card.diagram.rstrip("\n").split("\n"), "", "Claims", *said(NOT_OURS)]
    for claim in card.claims:
        lines += said(f"{claim.says.rstrip('.')}: {claim.figure}", "- ", "  ")
        lines += said(f"({claim.setup}; source: {claim.source})", "  ", "  ")
    lines += ["", "Knobs"]
    for knob in card.knobs:
        here = (
            f"--set {knob.setting}=... ({known.get(knob.setting, knob.setting)})" if knob.setting else "not in this lab"
        )
        lines += said(f"{knob.paper}: {here}{'. ' + knob.note if knob.note else ''}", "- ", "  ")
    lines += ["", "What to watch", *listed(card.watch), "", "What must hold", *said(card.check)]
    if card.simplified:
        lines += ["", "What is simpler here", *listed(card.simplified)]
    if card.reason:
        lines += ["", "Why it is only explained", *said(card.reason)]
    if verdicts:
        lines += ["", "On this machine", *listed(verdicts)]
    if card.related:
        lines += ["", *said(f"Related: {', '.join(card.related)}")]
    return lines
