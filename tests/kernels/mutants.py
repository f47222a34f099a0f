"""Kernels with a line changed, by family: each compiles, runs, and must be caught by the cases named beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsespec.kernels.linear.triton_tiles import Tiles
from sparsespec.testing.ops.op import Sizes
from sparsespec.testing.ops.sampling import OFF, Filters

SMALL_SAMPLE = {"GROUP": 4, "TILE": 16, "SPAN": 32, "HEAD": 4, "STREAMED_BLOCK": 64}
"""Sizes of the kernels of `sample` with which vocabularies of some dozen tokens span several groups and spans."""


@dataclass(frozen=True)
class Tried:
    """A call that may show a mutant: an op, the seed and the sizes of its arguments."""

    op: str
    seed: int
    sizes: Sizes
    dtype: torch.dtype = torch.float32
    patch: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Mutant:
    """Changes (module, old, new) of the source; the cases and constants that only this one needs."""

    changes: tuple[tuple[str, str, str], ...]
    sizes: Sizes = field(default_factory=dict[str, Any])
    patch: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Family:
    """Mutants of the modules of one folder.

    Attributes:
        folder: In `sparsespec/kernels`.
        rounds: The calls to make, in rounds.
        mutants: By what is wrong.
        every: Whether every round must show a mutant; else one must.
        parts: The modules that are changed, each of which may import those before it.
        patch: Constants of the modules, so that small arguments span several blocks.
    """

    folder: str
    rounds: list[list[Tried]]
    mutants: Mapping[str, Mutant]
    every: bool = False
    parts: tuple[str, ...] = ("triton",)
    patch: Mapping[str, Any] = field(default_factory=dict[str, Any])


def changes(module: str = "triton", **table: tuple[str, str]) -> dict[str, Mutant]:
    """Return mutants of a module by name, underscores for blanks."""
    return {name.replace("_", " "): Mutant(((module, *change),)) for name, change in table.items()}


def rounds(n: int, make: Callable[[int], list[Tried]]) -> list[list[Tried]]:
    """Return the calls of seeds 0 … n - 1."""
    return [make(seed) for seed in range(n)]


LAY_OUT = Family(
    "lay_out",
    rounds(12, lambda seed: [Tried(op, seed, {"n_rows": 6}) for op in ("lay_out_rows", "lay_out_tokens")]),
    changes(
        draft_starts_one_early=("drafting, c - 1 + d, c - 1", "drafting, c - 2 + d, c - 1"),
        prefill_starts_at_c=("tl.where(filling, computed,", "tl.where(filling, c,"),
        ended_rounds_go_on=("(d >= k) | ended", "(d >= k)"),
        one_draft_too_many=("(d >= k)", "(d > k)"),
        verify_forgets_the_first_token=("(k > 0), 1 + d, 1)", "(k > 0), d, 1)"),
        a_guess_too_many=("k - d - 1, n_query", "k - d, n_query"),
        rounds_without_drafts_take_no_guesses=("| (verifying & (k == 0))", "| (verifying & (k < 0))"),
        a_row_s_number_for_its_seat=("tl.load(packed + row, mask=mask, other=0)", "row"),
        stop_below_of_the_row_s_number=("stop_of + seat", "stop_of + row"),
        scores_of_all=("other=0) != 0, mask=mask)\n    # floats", "other=0) >= 0, mask=mask)\n    # floats"),
        a_token_belongs_to_the_row_that_ended=("end[None, :] <= at", "end[None, :] < at"),
        every_query_lives=("alive = (index < tl.load(lives + row))", "alive = (index < tl.load(n_queries + row))"),
        a_page_too_far=("position // PAGE, mask", "position // PAGE + 1, mask"),
        row_for_seat_in_the_table=("table + seat * table_seat", "table + row * table_seat"),
        start_of_the_page=("page * PAGE + position % PAGE", "page * PAGE"),
    ),
)
_SHUFFLED = {"n_rows": 6, "shuffled": True, "extra": 3}
VERIFY_INPUTS = Family(
    "verify_inputs",
    [
        [Tried(op, seed, {"n_rows": 6}) for op in ("verify_inputs", "per_logit_row")]
        + [Tried("per_logit_row", seed, _SHUFFLED)]
        for seed in range(6)
    ],
    changes(
        rows_that_fill_are_judged=("tl.where(phase == _PREFILL, 0, live) - 1", "live - 1"),
        guesses_count_as_sampled=(
            "(tl.load(k_of + row, mask=mask, other=0) > 0)",
            "(tl.load(k_of + row, mask=mask, other=0) >= 0)",
        ),
        levels_swapped=("tl.where(verifying, 0, 1)", "tl.where(verifying, 1, 0)"),
        position_of_the_first_query=("positions + row, start + 1", "positions + row, start"),
        committed_tokens_by_row=("_copy(cs, row, c_of, seat", "_copy(cs, row, c_of, row"),
        candidates_begin_with_the_first_input=("start[:, None] + 1 + j", "start[:, None] + j"),
        the_last_candidate_forgotten=("(j < n_candidates)", "(j < n_candidates - 1)"),
        the_last_logit_row_forgotten=("(at[:, None] <= last", "(at[:, None] < last"),
        the_last_logit_row_judges=("offset < tl.load(counts + row)", "offset <= tl.load(counts + row)"),
        all_positions_of_a_row_alike=("tl.load(positions + row) + offset", "tl.load(positions + row)"),
        seed_of_the_first_row=("_copy(seed_at, at, seeds, row", "_copy(seed_at, at, seeds, row * 0"),
        logit_rows_of_no_row_are_hot=("temperatures, row, mask, alive)", "temperatures, row, mask, True)"),
    ),
)
_COUNTS = {"counts": (2, 0, -1, 5, 3), "gap": 1}
VERIFY_TOKENS = Family(
    "verify_tokens",
    rounds(8, lambda seed: [Tried(op, seed, _COUNTS) for op in ("match_tokens", "verify_tokens")]),
    changes(
        the_first_rejected_is_skipped=(
            "tl.where(is_accepted, WIDTH, column",
            "tl.where(is_accepted, WIDTH, 1 + column",
        ),
        all_accepted_count=(
            "tl.min(tl.where(is_accepted, WIDTH, column[None, :]), 1)",
            "tl.sum(is_accepted.to(tl.int32), 1)",
        ),
        nothing_is_sampled_behind=("count < 0, 0, accepted + 1", "count < 0, 0, accepted"),
        the_row_before_is_judged=("[:, None] + column[None, :]\n", "[:, None] + column[None, :] - 1\n"),
        dead_rows_emit=("count < 0, 0,", "count < -1, 0,"),
        logits_of_the_row_s_number=("tl.load(firsts + row, mask=mask, other=0)", "row"),
        tokens_behind_what_was_emitted=(
            "column[None, :] < emitted[:, None], sampled",
            "column[None, :] < WIDTH, sampled",
        ),
    ),
)
SETTLE = Family(
    "settle",
    rounds(12, lambda seed: [Tried("settle", seed, {"n_rows": 6})]),
    changes(
        the_tail_off_by_one=("computed = tl.where(verifying, c - 1,", "computed = tl.where(verifying, c,"),
        drafts_kept_behind_a_verification=("tl.where(verifying, 0, d))", "tl.where(verifying, d, d))"),
        a_draft_commits=("c + tl.where(verifying, emitted, 0)", "c + emitted"),
        prefill_forgotten=("tl.where(filling, computed + n_query, computed)", "computed"),
        ended_forgotten=("tl.where(drafting, ended | low,", "tl.where(drafting, low,"),
        rounds_never_end=("ended | low", "ended"),
        ended_for_good=("ended & (verifying == 0)", "ended"),
        dead_drafts_end_rounds=("(emitted > 0) & (confidence <", "(confidence <"),
        row_for_seat=("tl.load(seats + row, mask=mask, other=0)\n    c =", "row\n    c ="),
        tokens_of_the_row_s_number=("known + seat[:, None]", "known + row[:, None]"),
        the_first_input_overwritten=("at = tl.load(positions + row", "at = tl.load(starts + row"),
        rejected_tokens_written=(
            "(column[None, :] < emitted[:, None]) &",
            "(column[None, :] <= emitted[:, None]) &",
        ),
        the_last_logit_row_unseen=("(column[None, :] < n_query[:, None])", "(column[None, :] < n_query[:, None] - 1)"),
        NaN_is_finite=('((tl.abs(peak) < float("inf")) == 0)', '(tl.abs(peak) == float("inf"))'),
        verifications_are_sure_too=("drafting & runs & ", "runs & "),
        queries_left_out_of_the_context=("other=0) + live", "other=0)"),
        dead_rows_read=("tl.where(runs, read, 0.0)", "read"),
        drafts_reported_as_they_were=("return d, ended", "return tl.load(d_of + row * 0, mask=mask, other=0), ended"),
    ),
)
_ROWS = {"lead": (3,), "width": 9, "apart": 2}
RMS_NORM = Family(
    "rms_norm",
    rounds(3, lambda seed: [Tried(op, seed, _ROWS) for op in ("rms_norm", "add_rms_norm")]),
    changes(
        mean_over_the_block=("0), WIDTH) + eps", "0), BLOCK) + eps"),
        mean_subtracted=("tl.sum(a * a, 0)", "tl.sum(a * a, 0) - tl.sum(a, 0) * tl.sum(a, 0) / WIDTH"),
        no_epsilon=("WIDTH) + eps)", "WIDTH))"),
        no_weight=("a = a * scale * tl.load", "a = a * scale + 0 * tl.load"),
        no_square_root=("tl.sqrt_rn(", "("),
        residual_left_out_of_the_sum=("a += tl.load(residual", "a += 0 * tl.load(residual"),
        old_residual_returned=("rounded = a.to(", "rounded = (a - tl.load(x + row * x_row + i, mask=inside)).to("),
        rows_of_x_taken_for_contiguous=("x + row * x_row", "x + row * WIDTH"),
        rows_of_the_residual_taken_for_those_of_x=("residual + row * residual_row", "residual + row * x_row"),
        last_number_left=("mask=inside)\n\n", "mask=i < WIDTH - 1)\n\n"),
    ),
    every=True,
)
SILU_MUL = Family(
    "silu_mul",
    rounds(3, lambda seed: [Tried("silu_mul", seed, {"lead": (3,), "width": 19, "apart": 3})]),
    changes(
        up_comes_first=("tl.exp(-gate)", "tl.exp(-up)"),
        the_other_way_round=("div_rn(gate", "div_rn(up"),
        sigmoid=("div_rn(gate", "div_rn(1.0 + 0 * gate"),
        exponential_of_the_gate=("tl.exp(-gate)", "tl.exp(gate)"),
        up_left_out=("(silu * up)", "(silu + 0 * up)"),
        rows_taken_for_contiguous=("row * stride", "row * 2 * WIDTH"),
        first_block_only=("tl.program_id(1) * BLOCK", "tl.program_id(1) * 0"),
        last_number_left=("mask=inside)\n\n", "mask=i < WIDTH - 1)\n\n"),
    ),
    every=True,
    patch={"BLOCK": 8},
)
APPEND_KV = Family(
    "append_kv",
    # one query is dead, the others are behind position 0 and away from slot 5
    rounds(3, lambda seed: [Tried("append_kv", seed, {
        "n": 3, "heads": (4, 2), "head_dim": 8, "slots": (0, 11, 6), "positions": (0, 9, 20)
    })]),
    changes(
        rotated_the_wrong_way=("b * cos + a * sin", "b * cos - a * sin"),
        mean_over_half_of_the_head=("/ (2 * HALF)", "/ HALF"),
        first_token_of_the_page=("slot // block_size, slot % block_size", "slot // block_size, slot * 0"),
        angle_of_position_0=("cos + position * angle", "cos + 0 * position * angle"),
        one_norm_for_both=("c, s, k_norm, i", "c, s, q_norm, i"),
        rotated_by_the_position_before=("tl.load(positions + token)", "tl.maximum(tl.load(positions + token) - 1, 0)"),
        dead_queries_write_a_slot=("slot = tl.load(slots + token)", "slot = tl.maximum(tl.load(slots + token), 5)"),
    ),
    every=True,
)  # fmt: skip
COPY_PAGES = Family(
    "copy_pages",
    rounds(3, lambda seed: [Tried("copy_pages", seed, {"shape": (2, 4, 2, 8), "count": 3})]),
    changes(
        page_swapped_with_place=(
            "tl.load(pairs + 2 * pair + 1) * target_page",
            "tl.load(pairs + 2 * pair) % 5 * target_page",
        ),
        first_layer_for_all=("layer * source_layer +", "0 * source_layer +"),
        one_pair_too_many=("if pair < tl.load(count)", "if pair <= tl.load(count)"),
        first_block_only=("range(0, size, BLOCK)", "range(0, BLOCK, BLOCK)"),
        last_number_left=("mask=i < size)", "mask=i < size - 1)"),
    ),
    patch={"BLOCK": 32},
)
TOP_POSITIONS = Family(
    "top_positions",
    [
        [
            Tried("top_positions", seed, {
                "shape": (1, 1, 2, 37), "kind": kind, "k_max": 20, "pool": 1 if kind == "zeros" else 3,
                "below": (33, 20), "count": (18, 7),
            })
        ]
        for seed, kind in enumerate(("probabilities", "ties", "odd", "rising", "zeros"))
    ],
    {
        **changes(
            wrong_mask_bound=("tl.load(below_of + row), length", "tl.load(below_of + row) + 1, length"),
            pool_shifted_by_one=("(shift - POOL // 2)", "(shift + 1 - POOL // 2)"),
            minus_zero_below_zero=("tl.where(bits == _LOWEST, 0, key)", "key"),
            NaN_ordered_by_its_sign=(
                "tl.where((bits & _HIGHEST) > _INFINITY, _HIGHEST, key)",
                "tl.maximum(key, _LOWEST + 1)",
            ),
            one_position_too_few=(
                "(count_of + layer * count_stride + row)",
                "(count_of + layer * count_stride + row) - 1",
            ),
            ties_counted_anew_in_each_block=("ties_seen + (before & 0xFFFF)", "(before & 0xFFFF)"),
            places_counted_anew_in_each_block=("above_seen += total >> 16", "above_seen = total >> 16"),
        ),
        # it counts the ties of a block
        "ties to the higher position": Mutant(
            (
                (
                    "triton",
                    """        index = above_seen + (before >> 16) + tl.minimum(ties_before, need)
        tl.store(out + index, at.to(tl.int64), mask=above | (tie & (ties_before < need)))
""",
                    """        spare = tl.sum(tie.to(tl.int32)) - need
        index = above_seen + (before >> 16) + tl.maximum(ties_before - spare, 0)
        tl.store(out + index, at.to(tl.int64), mask=above | (tie & (ties_before >= spare)))
""",
                ),
            ),
            patch={"WRITE_BLOCK": 64},
        ),
    },
    patch={"WRITE_BLOCK": 16, "LARGEST_BLOCK": 1024},
)  # fmt: skip
LINEAR = Family(
    "linear",
    [[
        Tried("linear", 1, {"m": 20, "n": 140, "k": 201, "bias": True, "apart": 3},
              patch={"tiles_for": lambda *_, tiles=tiles: tiles})
        for tiles in (Tiles(64, 64, 4, 2), Tiles(16, 64, 4, 3), Tiles(128, 128, 8, 3))
    ]],
    changes(
        no_bias=("total += tl.load(bias + columns", "total += 0 * tl.load(bias + columns"),
        rows_of_x_taken_for_contiguous=("rows.to(tl.int64)[:, None] * x_row", "rows.to(tl.int64)[:, None] * k"),
        rows_of_the_weight_taken_for_those_of_x=("[:, None] * weight_row", "[:, None] * x_row"),
        last_step_left=("tl.range(0, k, BLOCK_K)", "tl.range(0, k - BLOCK_K, BLOCK_K)"),
        only_the_last_step=("total += tl.dot", "total = tl.dot"),
        a_column_of_tiles_left=("within // height * BLOCK_N", "0 * within"),
        what_lies_behind_the_width=("(rows[:, None] < m) & (i[None, :] < k)", "(rows[:, None] < m)"),
    ),
)  # fmt: skip

_BEST = "token = tl.min(tl.where(score == best, token, NO_TOKEN), 0)"
_KEPT = "((key < cut) | ((key == cut) & (at <= last)))"
_CROSSING = "limit, limit, _MASS, BLOCK, STREAMED)\n            before"
_SOME = 'some = tl.max(near, 0) > float("-inf")'
_STREAMED = "all_keys, BLOCK, True)\n            held = tl.full((), -1, tl.int32)"
_LANES = "tl.join(tl.join(w0, w2), tl.join(w1, w3))"
_LEAST = "tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3))"
_FEW, _ONE_LANE = {"HEAD": 2}, {"TILE": 4}
"""A short head, and one lane a program, where what lanes remember is under test."""


def _sampled(filters: Filters, module: str, old: str, new: str, patch: Mapping[str, int] = {}, **sizes: Any) -> Mutant:
    return Mutant(
        ((f"triton_{module}" if module else "triton", old, new),), {"filters": (filters, filters), **sizes}, patch
    )


_COLD, _HOT, _HOT_3, _HOT_30 = (0.0, 0, 1.0, 0.0), (9.0, 0, 1.0, 0.9), (9.0, 3, 1.0, 0.0), (9.0, 30, 1.0, 0.0)
SAMPLE = Family(
    "sample",
    [
        [Tried("sample", 2 * seed, {"filters": (OFF, OFF), "vocab": 45, "kind": kind})]
        for seed, kind in enumerate(20 * ("flat", "ties", "numbers"))
    ],
    {
        "noise lane shifted": _sampled(OFF, "noise", _LANES, "tl.join(tl.join(w1, w3), tl.join(w2, w0))"),
        "block of noise shifted": _sampled(OFF, "noise", "(start // 4 + tl", "(start // 4 + 1 + tl"),
        "ties to the higher token": _sampled(
            _COLD, "", _BEST, "token = tl.max(tl.where((score == best) & mask, token, -1), 0)"
        ),
        "ties to the later turn": _sampled(
            _COLD, "blocks", "(top == best) & (this < token)", "(top == best)", _ONE_LANE
        ),
        "a bound that is none": _sampled(OFF, "blocks", "most += most_gumbel", "most += -3.0 + most_gumbel"),
        "a bound by two words": _sampled(OFF, "blocks", _LEAST, "tl.minimum(w0, w1)"),
        "second block forgotten": _sampled(OFF, "blocks", "top2 >= best", "top2 >= 1e30", _ONE_LANE),
        "third block forgotten": _sampled(OFF, "blocks", "top3 >= best", "top3 >= 1e30", _ONE_LANE),
        "what filters leave of a tile": _sampled(_HOT, "blocks", _SOME, "some = tl.max(near, 0) > 0.0"),
        "a group for another": _sampled(_HOT_3, "blocks", "group * GROUP + place", "group * 0 + place"),
        "the last groups forgotten": _sampled(
            _HOT_3, "blocks", "n_groups * GROUP, step", "n_groups // 2 * GROUP, step"
        ),
        "the first share forgotten": _sampled(_HOT_3, "blocks", "range(first * TILE", "range(first * TILE + TILE"),
        "a later share forgotten": _sampled(_HOT_3, "blocks", "step * TILE", "99 * TILE"),
        "sampled from the head only": _sampled(_HOT_30, "cut", _STREAMED, _STREAMED.partition("\n")[0], _FEW),
        "filters not seen": _sampled(
            (1.0, 2, 1.0, 0.0), "", "(is_searched(t, top_k, top_p, vocab) == 0)", "(top_k >= 0)"
        ),
        "the least probable not seen": _sampled((1.0, 0, 1.0, 0.5), "", "(min_p <= 0.0)", "(min_p <= 1.0)"),
        "far ones not looked at again": _sampled((0.7, 0, 1.0, 0.0), "", "> _FARTHEST", "> 1e35", shift=2.0**21),
        "k-th token dropped": _sampled((1.0, 2, 1.0, 0.0), "blocks", _KEPT, "(key < cut)"),
        "crossing token dropped": _sampled((1.0, 0, 0.5, 0.0), "cut", _CROSSING, _CROSSING.replace(")", ") - 1")),
        "one tie too many": _sampled((1.0, 0, 0.1, 0.0), "cut", "n = some.to(tl.int32)", "n = some.to(tl.int32) + 1"),
        "top_k one too many": _sampled(
            (1.0, 1, 1.0, 0.0), "cut", "k = top_k.to(tl.int32)", "k = top_k.to(tl.int32) + 1"
        ),
        "best ones of the head only": _sampled(_HOT_30, "cut", ">= k:", ">= 0:", _FEW),
        "mass of the head only": _sampled((5.0, 0, 0.95, 0.0), "cut", "total = _tally(", "held + _tally(", _FEW),
    },
    parts=("triton_cut", "triton_noise", "triton_blocks", "triton"),
    patch={**SMALL_SAMPLE, "HEAD": 16},
)
LOGPROBS = Family(
    "sample",
    [[Tried("logprobs", 2, {"n": 3, "vocab": 45, "kind": kind, "best": 20})] for kind in ("numbers", "ties", "flat")],
    changes(
        "triton_probs",
        the_last_of_equal_groups=(
            "tl.min(tl.where(left == most, group, _NO_TOKEN), 0)",
            "tl.max(tl.where(left == most, group, -1), 0)",
        ),
        the_last_of_equal_tokens=(
            "tl.min(tl.where((rank == most) & (gone == 0), at, _NO_TOKEN), 0)",
            "tl.max(tl.where((rank == most) & (gone == 0), at, -1), 0)",
        ),
        equal_ones_once_only=("((rank == most) & (at > token))", "(at < 0)"),
        equal_ones_again=("(most == last_rank) & (at <= last)", "(at < 0)"),
        one_span_s_weight=("tl.sum(weight * tl.exp(best - peak), 0)", "tl.max(weight * tl.exp(best - peak), 0)"),
        chosen_by_the_row=("tl.load(chosens + row)", "row"),
    ),
    parts=("triton_probs",),
    patch=SMALL_SAMPLE,
)
_FILTERED = ((0.7, 3, 1.0, 0.0), (1.0, 0, 0.6, 0.0), (0.0, 0, 1.0, 0.0), OFF)
PROBS = Family(
    "sample",
    [[Tried("probs", 2, {"filters": _FILTERED, "vocab": 45, "kind": kind})] for kind in ("numbers", "ties", "flat")],
    changes(
        "triton_probs",
        what_is_kept_at_the_cut=("((key == cut) & (at <= last))", "(at < 0)"),
        other_ties=("(at <= last)", "(at > last)"),
        masked_ones=("tl.where(kept, tl.exp", "tl.where(x == x, tl.exp"),
        one_span_s_mass=("total = tl.sum(tl.load(masses", "total = tl.max(tl.load(masses"),
        the_highest_of_equal_ones=("least = tl.min(tl.load(leasts", "least = tl.max(tl.load(leasts"),
    ),
    parts=("triton_probs",),
    patch=SMALL_SAMPLE,
)
FAMILIES = {
    "lay_out": LAY_OUT, "verify_inputs": VERIFY_INPUTS, "verify_tokens": VERIFY_TOKENS, "settle": SETTLE,
    "rms_norm": RMS_NORM, "silu_mul": SILU_MUL, "append_kv": APPEND_KV, "copy_pages": COPY_PAGES,
    "top_positions": TOP_POSITIONS, "linear": LINEAR, "sample": SAMPLE, "logprobs": LOGPROBS, "probs": PROBS,
}  # fmt: skip
