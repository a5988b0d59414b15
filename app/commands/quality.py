"""``servescope quality``: what each codec of the KV cache costs in quality, on the model's real weights."""

from __future__ import annotations

import json as json_text
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import Json, command, emit, result_table, say, stdout
from app.commands.printable import printable, unguarded
from app.commands.run import interruptible
from app.errors import LabError

if TYPE_CHECKING:
    from app.panels.kv_quantization.measure import QualityProgress

LOOK_S = 0.2
BAR = 30


def register(app: typer.Typer) -> None:
    app.command()(quality)


@command
def quality(
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="Measure with this run's settings; the result is kept with it."),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the engine. Repeatable.")
    ] = None,
    codecs: Annotated[
        str | None,
        typer.Option("--codecs", metavar="NAME,...", help="Only these: int8, fp8, int4, kivi 4-bit, kivi 2-bit."),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=32, max=65536, help="Tokens of held-back text for perplexity.")
    ] = 512,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, max=64, help="How many texts are continued greedily.")
    ] = 4,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, max=4096, help="Tokens of each continuation.")] = 32,
    needle_tokens: Annotated[
        int, typer.Option("--needle-tokens", min=0, max=65536, help="Tokens of each text with a hidden fact; 0: none.")
    ] = 256,
    json: Json = False,
) -> None:
    """Measure what each codec of the KV cache costs.

    Perplexity, agreement, divergence and error against full precision, on this model's weights.
    """
    from app.home import Home
    from app.panels.kv_quantization import measure as measuring
    from app.runs.folder import read_spec
    from app.runs.listing import find_run
    from app.settings.written import parse_settings
    from engine.config import EngineConfig, apply_overrides

    home = Home.from_environment().prepare()
    engine, folder = EngineConfig(), measuring.new_folder(home.root)
    if run is not None:
        run_id = find_run(home, run)
        folder = home.existing_run_dir(run_id)
        engine = read_spec(folder).engine
        if measuring.is_measuring(folder):
            raise LabError("measuring", field="--run", value=run_id, message="Its quality is being measured already.")
    engine = apply_overrides(engine, parse_settings(set or []))
    names = None if codecs is None else [name.strip() for name in codecs.split(",") if name.strip()]
    chosen = measuring.codecs_for(engine, names)
    sizes = {"tokens": tokens, "prompts": prompts, "new_tokens": new_tokens, "needle_tokens": needle_tokens}
    say(f"Measuring {', '.join(chosen)} of {engine.model} against full precision. On a CPU this takes minutes.")
    result = _measure(folder, measuring.spec_of(engine, chosen, **sizes))
    if json:
        emit(result)
    else:
        _print(result)


def _measure(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure in the folder and show how far it is; the result. Ctrl-C and SIGTERM end it."""
    from app.panels.kv_quantization import measure as measuring

    show = _progress()
    with interruptible() as asked:
        process = measuring.start(folder, spec)
        while process.poll() is None:
            if asked():
                process.terminate()
                process.wait()
                say("Ended; nothing was measured.")
                raise typer.Exit(130)
            show(measuring.progress_of(folder))
            time.sleep(LOOK_S)
    latest, result = measuring.progress_of(folder), measuring.result_in(folder)
    if process.returncode == 0 and result is not None:
        show(latest)
        if sys.stderr.isatty():
            say("")
        return result | {"path": str(folder / measuring.RESULT)}
    error = (latest.error if latest is not None else None) or {
        "message": f"The process ended with {process.returncode}."
    }
    raise LabError(
        error.get("kind", "quality"),
        field=error.get("field"),
        value=error.get("value"),
        message=error["message"],
        mend=error.get("mend", ""),
    )


def _progress() -> Callable[[QualityProgress | None], None]:
    """Shows how far it is: on a terminal as a line that is drawn over, elsewhere as a line for each phase."""
    told = ""

    def show(progress: QualityProgress | None) -> None:
        nonlocal told
        if progress is None:
            return
        if sys.stderr.isatty():
            full = round(BAR * progress.share)
            drawn = f"\r[{'#' * full}{'.' * (BAR - full)}] {printable(progress.phase):<40}"
            print(drawn, end="", file=unguarded(sys.stderr), flush=True)
        elif progress.phase != told:
            told = progress.phase
            say(f"{100 * progress.share:.0f} %: {progress.phase}")

    return show


def _print(result: dict[str, Any]) -> None:
    from app.panels.kv_quantization.tables import quality_table
    from store.quality import rows_of

    rows = rows_of("", json_text.dumps(result).encode())
    assert rows is not None
    told = quality_table(rows)
    say(told.note)
    stdout().print(result_table(told, right=told.heads[1:], whole=("codec",)))
    say("Cut otherwise: the largest change of a logit when the same text is read in other pieces.")
    say(f"Kept in {result['path']}.")
