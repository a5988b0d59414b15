"""Recorded traces: each format, failed requests, bad lines, and the real files where they are at hand."""

from __future__ import annotations

import gzip
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

import scenarios
from engine.config import ConfigError
from scenarios import traces

REAL = Path(os.environ.get("SERVESCOPE_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
MOONCAKE = REAL / "mooncake_conversation_3000.jsonl"
SPLITWISE = REAL / "splitwise_conv.csv"

MOONCAKE_LINE = '{"timestamp": 61114, "input_length": 521, "output_length": 132, "hash_ids": [7, 8]}\n'
BAILIAN_LINE = json.dumps(
    {
        "chat_id": 159,
        "parent_chat_id": 55,
        "timestamp": 61.114,
        "input_length": 521,
        "output_length": 132,
        "type": "text",
        "turn": 2,
        "hash_ids": list(range(33)),
    }
)
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURSTGPT_NEWER = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, **keys) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        traces.read(path, **keys)
    return caught.value


def test_mooncake_lines_have_milliseconds_and_shared_blocks(tmp_path: Path):
    path = written(
        tmp_path,
        "a.jsonl",
        '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n\n'
        '{"timestamp": 1500, "input_length": 900, "output_length": 6, "hash_ids": [0, 2]}\n',
    )
    trace = traces.read(path)
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens, r.block_ids) for r in trace.rows] == [
        (0.0, 700, 5, (0, 1)),
        (1.5, 900, 6, (0, 2)),
    ]


def test_bailian_lines_have_seconds_and_blocks_of_16_tokens(tmp_path: Path):
    path = written(tmp_path, "b.jsonl", BAILIAN_LINE)
    for format in ("auto", "bailian"):
        (row,) = traces.read(path, format).rows
        assert (row.arrival_s, row.prompt_tokens, row.output_tokens, row.block_tokens) == (61.114, 521, 132, 16)
        assert row.block_ids == tuple(range(33))
    assert "qwen-bailian" in traces.licence_of(path)
    assert "Mooncake" in traces.licence_of(written(tmp_path, "m.jsonl", MOONCAKE_LINE))


@pytest.mark.parametrize(
    ("text", "keys", "named"),
    [
        (BAILIAN_LINE, {"format": "mooncake"}, "chat_id"),
        (MOONCAKE_LINE, {"format": "bailian"}, "chat_id"),
        (MOONCAKE_LINE + BAILIAN_LINE, {}, "chat_id"),
        (BAILIAN_LINE.replace('"turn"', '"session_id": 3, "turn"'), {}, "session_id"),
        (MOONCAKE_LINE.replace("521", "40"), {"block_tokens": 8}, "a block is not 8 tokens"),
        (MOONCAKE_LINE.replace("521", "5210"), {}, "a block is not 512 tokens"),
        (json.dumps({k: v for k, v in json.loads(BAILIAN_LINE).items() if k in MOONCAKE_LINE}), {}, "not 512 tokens"),
        (MOONCAKE_LINE.replace('"hash', '"session_id": "a", "hash'), {}, "only what is new"),
        (MOONCAKE_LINE.replace('"hash', '"delay": 3, "hash'), {}, "'delay' times a turn"),
        (MOONCAKE_LINE.replace('"hash', '"text_input": "x", "hash'), {}, "'text_input' holds a prompt"),
        (MOONCAKE_LINE.replace('"hash', '"hash_idz": [], "hash'), {}, "'hash_idz' is not known"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens,session_id\n1,2,3,4\n", {}, "'session_id' is not known"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens,arrived_at\n1,2,3,4\n", {}, "twice"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3,4\n", {}, "4 values"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n", {"block_tokens": 16}, "no hash_ids"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n", {"sessions": "cumulative"}, "no session_id"),
        ("[" * 100_000, {"format": "mooncake"}, "not JSON"),
        ('{"timestamp": 1' + "0" * 5000 + "}", {}, "not JSON"),
        ('{"x": "' + "y" * 5_000_000 + '"}', {}, "longer than"),
    ],
)
def test_what_a_row_says_is_read_or_refused_by_name(tmp_path: Path, text: str, keys: dict, named: str):
    error = refusal(written(tmp_path, "trace", text), **keys)
    assert named in error.message
    assert error.mend


def test_other_blocks_and_sessions_are_read_where_the_scenario_says_what_they_are(tmp_path: Path):
    line = BAILIAN_LINE.replace("61.114", "61114").replace('"chat_id": 159, "parent_chat_id": 55, ', "")
    line = line.replace('"type": "text", "turn": 2', '"session_id": "a"')
    (row,) = traces.read(written(tmp_path, "s.jsonl", line), block_tokens=16, sessions="cumulative").rows
    assert (row.arrival_s, row.block_tokens, row.in_session) == (61.114, 16, True)


def test_what_is_not_served_as_recorded_is_counted_in_the_labels(tmp_path: Path):
    picture = BAILIAN_LINE.replace('"text"', '"image"').replace('"turn": 2', '"turn": 1').replace("55", "-1")
    bailian = written(tmp_path, "b.jsonl", f"{BAILIAN_LINE}\n{picture}\n{picture}\n")
    labels = scenarios.build(scenario_with_trace(tmp_path, bailian, 3)).labels
    assert "users: not all of the trace was plain text (2 image), served as text of the recorded lengths" in labels
    assert "users: 1 of 3 requests belong to sessions of the trace, served at their recorded moments" in labels
    azure = written(
        tmp_path,
        "a.csv",
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
        "2024-10-15 00:00:00,0,374,44\n2024-10-15 00:00:01,3,396,109\n2024-10-15 00:00:02,1,90,9\n",
    )
    (label,) = scenarios.build(scenario_with_trace(tmp_path, azure, 3)).labels
    assert "2 of 3 requests of the trace had images (4 in all)" in label
    burst = written(tmp_path, "n.csv", BURSTGPT_NEWER + "5,s1,1.2,ChatGPT,472,18,490,x\n6,,1,GPT-4,9,9,18,x\n")
    (label,) = scenarios.build(scenario_with_trace(tmp_path, burst, 2)).labels
    assert "1 of 2 requests belong to sessions" in label


def test_a_gzip_file_is_read_as_it_is_whatever_its_name(tmp_path: Path):
    plain = written(tmp_path, "t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.25,396,109\n")
    for name in ("t.csv.gz", "renamed"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        assert traces.read(tmp_path / name) == traces.read(plain)
        assert traces.licence_of(tmp_path / name) == traces.licence_of(plain)


def test_a_time_without_a_zone_is_utc_so_no_clock_change_gets_into_the_gaps(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-03-10 01:59:00,3,4\n2024-03-10 03:01:00,3,4\n"
    try:
        assert traces.read(written(tmp_path, "a.csv", text)).rows[1].arrival_s == 3720
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_first_requests_of_a_file_out_of_order_are_those_that_came_first(tmp_path: Path):
    rows = "9,1,1\n3,2,2\n7,3,3\n1,4,4\n"
    path = written(tmp_path, "a.csv", f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}")
    assert [r.prompt_tokens for r in traces.read(path, limit=2).rows] == [4, 2]


def test_vidur_and_azure_columns_mean_the_same(tmp_path: Path):
    vidur = written(tmp_path, "v.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.25,396,109\n")
    azure = written(
        tmp_path,
        "a.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.0000000,374,44\n2023-11-16 18:15:50.2500000,396,109\n",
    )
    assert traces.read(vidur) == traces.read(azure)
    assert traces.read(vidur, "splitwise").rows[1].arrival_s == 4.25


def test_both_burstgpt_variants_are_read_and_failures_counted(tmp_path: Path):
    older = written(tmp_path, "o.csv", BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,0,10,API log\n")
    newer = written(
        tmp_path,
        "n.csv",
        BURSTGPT_NEWER + "5,s1,1.2,ChatGPT,472,18,490,Conversation log\n45,,0.1,GPT-4,10,0,10,API log\n",
    )
    for path in (older, newer):
        trace = traces.read(path)
        assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in trace.rows] == [(5.0, 472, 18)]
        assert trace.failed == 1


def test_rows_out_of_order_are_sorted(tmp_path: Path):
    path = written(tmp_path, "a.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n9,1,1\n3,2,2\n")
    assert [r.prompt_tokens for r in traces.read(path).rows] == [2, 1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '{"timestamp": 0, "input_length": 7, "output_length": 5, "hash_ids": [0]}\n{"timestamp": 0, "input_length"',
            2,
        ),
        (
            '{"timestamp": 0, "input_length": 7, "output_length": 5, "hash_ids": [0]}\n' * 2
            + '{"timestamp": 0, "input_length": 7, "output_length": 5}\n',
            3,
        ),
        ('{"timestamp": 0, "input_length": -7, "output_length": 5, "hash_ids": [0]}\n', 1),
        ('{"timestamp": 0, "input_length": 7.5, "output_length": 5}\n', 1),
        ('{"timestamp": 0, "output_length": 5}\n', 1),
        ('{"timestamp": "soon", "input_length": 7, "output_length": 5}\n', 1),
        ('{"timestamp": 0, "input_length": 7, "output_length": 5, "hash_ids": "x"}\n', 1),
        ("{\n", 1),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n1,2\n", 3),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,-2,3\n", 2),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\nnan,2,3\n", 2),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,2,3\n", 2),
        ("a,b,c\n1,2,3\n", 1),
        ("", 1),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, text: str, line: int):
    error = refusal(written(tmp_path, "trace", text))
    assert f"trace:{line}" in str(error)
    assert error.mend


def test_a_missing_or_binary_file_is_said_so(tmp_path: Path):
    assert "No such file" in refusal(tmp_path / "gone.csv").message
    (tmp_path / "b.bin").write_bytes(b"\x1e\x8b\xff\xfe\x00")
    assert "not text" in refusal(tmp_path / "b.bin").message
    (tmp_path / "b.gz").write_bytes(b"\x1f\x8b\xff\xfe\x00")
    assert "damaged" in refusal(tmp_path / "b.gz").message
    (tmp_path / "cut.gz").write_bytes(gzip.compress(MOONCAKE_LINE.encode() * 500)[:-20])
    assert "damaged" in refusal(tmp_path / "cut.gz").message
    assert "ordinary" in refusal(Path("/dev/zero")).message


def scenario_with_trace(tmp_path: Path, trace: Path, requests: int, **arrivals: object) -> Path:
    extra = "".join(f", {k}: {v}" for k, v in arrivals.items())
    return written(
        tmp_path,
        "replay.yaml",
        f"""
title: A trace
summary: Replay.
question: When?
workload:
  groups:
    users:
      requests: {requests}
      arrivals: {{kind: trace, path: {trace.name if trace.parent == tmp_path else trace}{extra}}}
      prompt: {{kind: trace-blocks}}
      prompt_tokens: {{kind: trace, scale: 0.1}}
      output_tokens: {{kind: trace, scale: 0.5, high: 40}}
""",
    )


def test_a_trace_beside_the_scenario_file_is_found_and_scaled(tmp_path: Path):
    trace = written(
        tmp_path, "t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n2,100,20\n3,200,0\n6,300,500\n"
    )
    spec = scenarios.build(scenario_with_trace(tmp_path, trace, 2, speed=2, start_s=1))
    assert [r.arrival_ns for r in spec.requests] == [1_000_000_000, 3_000_000_000]
    assert [len(r.prompt_token_ids) for r in spec.requests] == [10, 30]
    assert [r.max_tokens for r in spec.requests] == [10, 40]
    assert spec.labels == ("users: 1 failed requests of the trace left out",)


def test_equal_hash_ids_give_equal_tokens_and_others_do_not(tmp_path: Path):
    line = '{{"timestamp": {}, "input_length": 1024, "output_length": 5, "hash_ids": {}}}\n'
    trace = written(tmp_path, "t.jsonl", "".join(line.format(i, ids) for i, ids in enumerate(([0, 1], [0, 2], [3, 1]))))
    a, b, c = (r.prompt_token_ids for r in scenarios.build(scenario_with_trace(tmp_path, trace, 3)).requests)
    assert len(a) == 102
    assert a[:51] == b[:51]
    assert a[51:] != b[51:]
    assert a[:51] != c[:51]
    assert a[51:] == c[51:]


def test_trace_blocks_of_a_given_size_are_equal_in_prompts_of_any_length(tmp_path: Path):
    asked = ((1024, [0, 1, 2]), (1100, [0, 1, 2]), (300, [0]))
    line = '{{"timestamp": 0, "input_length": {}, "output_length": 5, "hash_ids": {}}}\n'
    trace = written(tmp_path, "t.jsonl", "".join(line.format(*row) for row in asked))
    path = scenario_with_trace(tmp_path, trace, 3)
    path.write_text(path.read_text().replace("{kind: trace-blocks}", "{kind: trace-blocks, block: 51}"))
    a, b, c = (r.prompt_token_ids for r in scenarios.build(path).requests)
    assert (len(a), len(b), len(c)) == (102, 110, 30)
    assert a == b[:102]
    assert a[:30] == c


def test_a_trace_that_is_too_short_says_how_long_it_is(tmp_path: Path):
    trace = written(tmp_path, "t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n2,100,20\n")
    with pytest.raises(scenarios.ScenarioError, match="has 1 usable rows, 5 are needed"):
        scenarios.build(scenario_with_trace(tmp_path, trace, 5))


@pytest.mark.skipif(not MOONCAKE.is_file(), reason="the Mooncake trace is not at hand (set SERVESCOPE_TRACES)")
def test_the_real_mooncake_trace_replays_with_its_sharing(tmp_path: Path):
    assert len(traces.read(MOONCAKE).rows) == 3000
    spec = scenarios.build(scenario_with_trace(tmp_path, MOONCAKE, 50, speed=10))
    firsts = {r.prompt_token_ids[:32] for r in spec.requests}
    assert len(firsts) < 50  # many prompts of this trace begin with the same block


@pytest.mark.skipif(not SPLITWISE.is_file(), reason="the Splitwise trace is not at hand (set SERVESCOPE_TRACES)")
def test_the_real_splitwise_trace_has_its_known_rate_and_variation():
    rows = traces.read(SPLITWISE).rows
    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(rows)]
    mean = sum(gaps) / len(gaps)
    cv = (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5 / mean
    assert len(rows) == pytest.approx(19_366, abs=5)
    assert 1 / mean == pytest.approx(5.53, rel=0.01)
    assert cv == pytest.approx(1.09, rel=0.01)


def test_a_workload_says_which_traces_it_is_drawn_from_and_their_licences(tmp_path: Path):
    line = '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
    trace = written(tmp_path, "a.jsonl", line)
    assert "Apache-2.0" in scenarios.build(scenario_with_trace(tmp_path, trace, 1)).licences["a.jsonl"]
    own = scenario_with_trace(tmp_path, trace, 1, licence="ours")
    assert scenarios.build(own).licences == {"a.jsonl": "ours"}
    assert scenarios.build("starter").licences == {}


DELTAS = """
{"timestamp": 1000, "input_length": 600, "output_length": 3, "hash_ids": [1, 2], "session_id": "a"}
{"timestamp": 1500, "input_length": 40, "output_length": 2, "hash_ids": [7], "session_id": "b"}
{"input_length": 30, "output_length": 5, "session_id": "a", "delay": 2500}
{"input_length": 20, "output_length": 4, "hash_ids": [9], "session_id": "a", "delay": 500}
{"timestamp": 4000, "input_length": 10, "output_length": 1, "hash_ids": [3]}
"""

REPLAYED = """
title: A
summary: B
question: C?
workload:
  groups:
    users:
      requests: 5
      arrivals: {kind: trace, path: s.jsonl, sessions: deltas, speed: 2}
      prompt: {kind: trace-blocks}
      prompt_tokens: {kind: trace}
      output_tokens: {kind: trace}
"""


def test_turns_given_as_deltas_come_after_the_answer_and_carry_what_was_said(tmp_path: Path):
    written(tmp_path, "s.jsonl", DELTAS)
    (tmp_path / "mine.yaml").write_text(REPLAYED, encoding="utf-8")
    spec = scenarios.build(tmp_path / "mine.yaml")
    by_length = {len(r.prompt_token_ids): r for r in spec.requests}
    first, second, third = by_length[600], by_length[30], by_length[20]
    assert (first.after, second.after, third.after) == (None, first.request_id, second.request_id)
    assert [r.continues for r in (first, second, third)] == [False, True, True]
    assert (second.arrival_ns, third.arrival_ns) == (1_250_000_000, 250_000_000)
    assert [by_length[n].arrival_ns for n in (600, 40, 10)] == [0, 250_000_000, 1_500_000_000]
    assert not [label for label in spec.labels if "sessions" in label]


def test_a_sessions_first_turn_needs_its_moment(tmp_path: Path):
    line = '{"input_length": 30, "output_length": 5, "session_id": "a", "delay": 2500}\n'
    with pytest.raises(ConfigError, match="timestamp is missing"):
        traces.read(written(tmp_path, "s.jsonl", line), sessions="deltas")


TALKS = """5,s1,2,ChatGPT,40,10,50,Conversation log
6,,1,GPT-4,9,9,18,API log
10,s1,4,ChatGPT,70,20,90,Conversation log
12,s2,1,ChatGPT,30,5,35,Conversation log
30,s1,1,ChatGPT,60,8,68,Conversation log
36,s1,1,ChatGPT,75,3,78,Conversation log
"""


def test_burstgpts_sessions_become_turns_that_come_after_their_answers(tmp_path: Path):
    trace = written(tmp_path, "n.csv", BURSTGPT_NEWER + TALKS)
    path = scenario_with_trace(tmp_path, trace, 6, sessions="cumulative")
    path.write_text(path.read_text().replace("scale: 0.1", "scale: 1"))
    spec = scenarios.build(path)
    one, _, two, other, three, four = sorted(spec.requests, key=lambda r: r.request_id)
    assert [len(r.prompt_token_ids) for r in (one, two, other)] == [40, 70 - 40 - 10, 30]
    assert (two.after, two.continues, two.arrival_ns) == (one.request_id, True, 3_000_000_000)  # 10 s less 5 s less 2 s
    assert (other.after, other.arrival_ns) == (None, 7_000_000_000)
    assert (three.after, three.continues, len(three.prompt_token_ids)) == (None, False, 60)  # of 90 said before
    assert (four.after, len(four.prompt_token_ids)) == (three.request_id, 75 - 60 - 8)
    assert spec.labels == ("users: 1 turns of the trace are shorter than what was said before, and begin anew",)


def test_burstgpts_sessions_may_give_what_is_new_in_each_turn(tmp_path: Path):
    trace = written(tmp_path, "n.csv", BURSTGPT_NEWER + TALKS)
    path = scenario_with_trace(tmp_path, trace, 6, sessions="deltas")
    spec = scenarios.build(path)
    assert sum(r.continues for r in spec.requests) == 3
    assert spec.labels == ()


def test_sessions_need_to_be_in_the_file(tmp_path: Path):
    older = written(tmp_path, "o.csv", BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n")
    assert "no Session ID" in refusal(older, sessions="deltas").message
    newer = written(tmp_path, "n.csv", BURSTGPT_NEWER + "5,s1,,ChatGPT,4,2,6,Conversation log\n")
    assert "Elapsed time is missing" in refusal(newer, sessions="deltas").message
