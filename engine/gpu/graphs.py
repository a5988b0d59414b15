"""CUDA graphs: steps recorded once per padded form, then replayed without Python in between.

A graph reads fixed memory, so a batch is padded to the smallest recorded form that holds it and copied into that
memory::

    5 rows, graph of 8   | r0 r1 r2 r3 r4 | -- -- -- |   padding: slot -1 (stores nothing), 0 keys (attends to nothing)

Decode steps are recorded with their logits. Where rows that share a prefix read it together, every size is recorded
twice, with the passes over prefixes and without; the work of these passes is a table, padded too. Prefixes for which
that has no room are a step without a graph, and so are prefixes beside longer parts.

Steps with chunks of prompts or guesses (``engine.gpu.step_forms``) are recorded up to the residual stream: which rows
are sampled is not known ahead.

On a device without graphs the recorded work is simply done again: the padding is the same, and so are the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from engine.block_table import blocks_for
from engine.executor import DECODES_ONLY, LongerSteps
from engine.gpu.attention import TritonAttention
from engine.gpu.batch import Ragged, SharedRows
from engine.gpu.fused import FusedDecoder
from engine.gpu.layout import Layout
from engine.gpu.step_forms import StepForm, padded_sizes, prompt_forms, verify_forms
from engine.phases import Progress, silent

if TYPE_CHECKING:
    from engine.gpu.attention.prefixes import PrefixGroups

Hidden = torch.Tensor  # [rows, hidden], the residual stream after the last layer
Outputs = tuple[Hidden, torch.Tensor | None]  # and [rows, vocab] logits of a decode step


class Graphs:
    """Recorded steps of one decoder over one attention backend's cache."""

    def __init__(
        self,
        decoder: FusedDecoder,
        attention: TritonAttention,
        max_num_seqs: int,
        max_model_len: int,
        sizes: Sequence[int] | None = None,
        longer: LongerSteps = DECODES_ONLY,
    ) -> None:
        """``sizes``: of decode steps; None: those that ``padded_sizes`` names."""
        self._decoder = decoder
        self._attention = attention
        self._device = attention.cache.device
        self._blocks_per_sequence = blocks_for(max_model_len, attention.cache.block_size)
        self._passes = attention.passes
        decodes = [StepForm(size) for size in sorted(sizes or padded_sizes(max_num_seqs))]
        if self._passes is not None:
            least = self._passes.rule.min_rows
            decodes += [replace(form, shares=True) for form in decodes if form.singles >= least]
        verifies = verify_forms(max_num_seqs, longer.longest, longer.verify_rows)
        prompts = prompt_forms(max_num_seqs, longer.prompt_rows)
        # Where several hold a batch the first is taken: guesses have tiles of their own, then fewer rows are less work.
        self._forms = [*decodes, *verifies, *sorted(prompts, key=lambda form: (form.total_rows, form.rows))]
        words = max(self._layout(form, None).words for form in self._forms)
        self._memory = torch.zeros(words, dtype=torch.int32, device=self._device)
        self._layouts = {form: self._layout(form, self._memory) for form in self._forms}
        self._replays: dict[StepForm, Callable[[], Outputs]] = {}
        self.nbytes = 0  # memory the recordings hold

    def fit(self, needed: StepForm, groups: PrefixGroups | None = None) -> StepForm | None:
        """The smallest recorded form for a batch of this extent; ``groups``: what its single tokens share, None where
        it has no room for it."""
        form = next((form for form in self._forms if form.holds(needed) and form in self._replays), None)
        return form if form is None or groups is None or groups.fits(form.singles) else None

    def layout(self, form: StepForm) -> Layout:
        """Where a batch padded to ``form`` lies in the graphs' memory."""
        return self._layouts[form]

    def _layout(self, form: StepForm, memory: torch.Tensor | None) -> Layout:
        prefixes = self._passes.words(form.singles) if form.shares and self._passes is not None else None
        return Layout.padded(form, form.total_sequences * self._blocks_per_sequence, memory, prefixes)

    def replay(self, form: StepForm) -> Outputs:
        """The residual stream after the last layer of all rows of the form, and of decode steps the logits; valid until
        the next replay."""
        return self._replays[form]()

    @torch.inference_mode()
    def capture(self, progress: Progress = silent) -> None:
        """Record every form, the largest first: the smaller ones then find their memory in the same pool."""
        gpu = self._device.type == "cuda"
        before = torch.cuda.mem_get_info(self._device)[0] if gpu else 0
        pool = torch.cuda.graph_pool_handle() if gpu else None
        forms = sorted(self._forms, key=lambda form: -form.total_rows)
        for number, form in enumerate(forms):
            progress("recording CUDA graphs", number / len(forms))
            step = self._step(form)
            self._replays[form] = _record(step, pool) if gpu else step
        if gpu:
            self.nbytes = max(0, before - torch.cuda.mem_get_info(self._device)[0])

    def _step(self, form: StepForm) -> Callable[[], Outputs]:
        """The work of one step on the fixed memory."""
        decoder, backend = self._decoder, self._attention
        part = dict(self.layout(form).tensors)
        part["slots"].fill_(-1)
        attention = Ragged(
            slots=part["slots"],
            num_singles=form.singles,
            query_starts=part["query_starts"],
            kv_lens=part["kv_lens"],
            block_starts=part["block_starts"],
            blocks=part["blocks"],
            num_sequences=form.total_sequences,
            num_tokens=form.total_rows,
            max_query_len=form.longest,
            shared=self._shared(form.singles, part) if form.shares else None,
            tails=part["tails"],
            prefills=part["prefills"] if form.rows and backend.exact_prefill else None,
        )

        def step() -> Outputs:
            backend.begin(attention)
            hidden = decoder.forward(part["token_ids"], part["positions"], backend)
            return hidden, None if form.rows else decoder.logits(hidden)

        return step

    def _shared(self, size: int, part: Mapping[str, torch.Tensor]) -> SharedRows:
        assert self._passes is not None
        most = self._passes.most(size)
        for name in self._passes.words(size):  # what another size left there is no work
            part[name].zero_()
        return SharedRows.of(part, most.items, most.parts)


def _record(step: Callable[[], Outputs], pool: Any) -> Callable[[], Outputs]:
    """Record ``step`` as a CUDA graph, after a run outside it that loads and compiles whatever it needs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        out = step()

    def replay() -> Outputs:
        graph.replay()
        return out

    return replay
