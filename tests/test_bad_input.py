"""Wrong input to everything public, in one table: what is raised, that it shows what it got, and says what would work.

The command line has a table of its own in `tests/cli`; what requests and compositions are refused for beyond their form
is in `tests/engine`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import sparsespec
from sparsespec import LLM, CheckLossless, Engine, EngineSpec, RecordTrace, SamplingParams, SparseSpecError, make
from sparsespec.core import registry
from sparsespec.core.errors import BadModel, BadOption, BadRequest, EngineClosed, MissingPackage, UnknownName
from sparsespec.core.spec import SHELVES, PartSpec, preset
from sparsespec.llm import load_model
from sparsespec.models.catalog import load, resolve
from sparsespec.models.tiny import tiny
from sparsespec.testing import (
    check_length,
    check_proposer,
    check_scheduler,
    check_selector,
    check_tiers,
    check_verifier,
)
from tests.engine.running import is_sentence
from tests.folders import tiny_folder
from tests.models.checkpoints import YARN, rewrite

LONGEST = 300
"""Characters of a message at most."""

HAVE_PARAMS = "have: ignore_eos, logprobs, max_tokens"
SHELF_NAMES = "have: attention, length, proposer, scheduler, selector, tiers, verifier"
MESSAGES: Any = [{"role": "user", "content": "the fox"}]
FEW = SamplingParams(temperature=0.0, max_tokens=3)


@dataclass(frozen=True)
class Kit:
    """What cases are made from."""

    llm: LLM  # over `tiny`, without a tokenizer
    texts: LLM  # over a folder, with one
    folder: Path
    tmp: Path

    def engine(self, base: Any = "dense", **changes: Any) -> Engine:
        return Engine.compose(self.llm.model, base, **changes)


class Case(NamedTuple):
    """A call, and what its error must be and contain: what it got, and what would have worked."""

    call: Callable[[Kit], object]
    kind: type[SparseSpecError]
    got: str
    works: str


class NoPart:
    """Has none of the verbs of any shelf."""


def _params(got: str, works: str, **wishes: Any) -> Case:
    return Case(lambda kit: SamplingParams(**wishes), BadRequest, got, works)


def _llm(kind: type[SparseSpecError], got: str, works: str, *preset: Any, **engine: Any) -> Case:
    return Case(lambda kit: LLM(kit.llm.model, *preset, **engine), kind, got, works)


def _request(got: str, works: str, prompt: Any, params: Any = FEW) -> Case:
    return Case(lambda kit: kit.llm.generate(prompt, params), BadRequest, got, works)


def _options(spec: str, got: str, works: str, kind: type[SparseSpecError] = BadOption) -> Case:
    return Case(lambda kit: make(spec), kind, got, works)


def _compare(
    got: str, works: str, composition: str, *, kind: type[SparseSpecError] = BadOption, **options: Any
) -> Case:
    return Case(lambda kit: sparsespec.compare("tiny", [composition], **options), kind, got, works)


def _register(got: str, works: str, *arguments: Any, kind: type[SparseSpecError] = BadOption) -> Case:
    return Case(lambda kit: registry.register(*arguments), kind, got, works)


def _lazy(got: str, works: str, target: str, kind: type[SparseSpecError] = BadOption) -> Case:
    def call(kit: Kit) -> None:
        registry.register("selector", "lazy", target)
        make("selector/lazy")

    return Case(call, kind, got, works)


SAMPLING = {
    "negative temperature": _params("temperature", "not negative, got -0.1", temperature=-0.1),
    "nan temperature": _params("got nan", "finite", temperature=math.nan),
    "infinite temperature": _params("got inf", "finite", temperature=math.inf),
    "temperature beyond floats": _params("got 1000", "temperature must be finite", temperature=10**400),
    "temperature near 0": _params("got 1e-09", "0 (greedy) or at least 1e-5", temperature=1e-9),
    "temperature in words": _params("got 'hot'", "temperature must be a number", temperature="hot"),
    "bool temperature": _params("got True", "temperature must be a number", temperature=True),
    "no temperature": _params("got None", "temperature must be a number", temperature=None),
    "top_p 0": _params("got 0.0", "in (0, 1]", top_p=0),
    "top_p above 1": _params("got 1.5", "in (0, 1]", top_p=1.5),
    "top_p nan": _params("got nan", "top_p must be finite", top_p=math.nan),
    "top_k below -1": _params("got -2", "top_k must be a whole number of at least -1", top_k=-2),
    "half a top_k": _params("got 1.5", "top_k must be a whole number", top_k=1.5),
    "min_p above 1": _params("got 2.0", "min_p must be in [0, 1]", min_p=2),
    "no new tokens": _params("got 0", "max_tokens must be a whole number of at least 1", max_tokens=0),
    "bool max_tokens": _params("got True", "max_tokens must be a whole number", max_tokens=True),
    "numpy max_tokens": _params("got np.int64(3)", "max_tokens must be a whole number", max_tokens=np.int64(3)),
    "no samples": _params("got 0", "n must be a whole number of at least 1", n=0),
    "bool logprobs": _params("got False", "logprobs must be a whole number of at least 0", logprobs=False),
    "negative seed": _params("got -1", "seed must be a whole number of at least 0", seed=-1),
    "seed of 65 bits": _params(str(1 << 64), "in [0, 2**64)", seed=1 << 64),
    "seed as text": _params("got '7'", "seed must be a whole number", seed="7"),
    "empty stop string": _params("got ['a', '']", "not empty", stop=["a", ""]),
    "bytes to stop at": _params("got b'x'", "stop must be a list", stop=b"x"),
    "one stop token": _params("got 7", "stop_token_ids must be a list", stop_token_ids=7),
    "float stop token": _params("got 1.5", "each of stop_token_ids must be a whole number", stop_token_ids=[2, 1.5]),
    "ignore_eos as a number": _params("got 1", "ignore_eos must be True or False", ignore_eos=1),
    "speculate as a word": _params("got 'no'", "speculate must be True or False", speculate="no"),
    "misspelt": Case(lambda kit: SamplingParams(temprature=1), UnknownName, "temprature", "mean 'temperature'"),
    "unsupported": Case(lambda kit: SamplingParams(best_of=2), UnknownName, "best_of", "n draws independent samples"),
    "a list for a dict": Case(lambda kit: SamplingParams.from_dict([1]), BadRequest, "[1]", "a table of names"),
    "a number for a name": Case(lambda kit: SamplingParams.from_dict({1: 2}), UnknownName, "parameter 1;", HAVE_PARAMS),
    "JSON of a list": Case(lambda kit: SamplingParams.from_json("[1]"), BadRequest, "'[1]'", "a JSON object"),
    "half of JSON": Case(lambda kit: SamplingParams.from_json('{"n":'), BadRequest, '{"n":', "a JSON object"),
    "no JSON": Case(lambda kit: SamplingParams.from_json(None), BadRequest, "None", "the text of a JSON object"),
    "NaN in JSON": Case(lambda kit: SamplingParams.from_json('{"min_p": NaN}'), BadRequest, "nan", "finite"),
    "bottomless JSON": Case(lambda kit: SamplingParams.from_json("[" * 99999), BadRequest, "'[[[", "a JSON object"),
}

SPECS = {
    "unknown shelf": Case(lambda kit: PartSpec("selecter", "full"), UnknownName, "selecter", "mean 'selector'"),
    "a list for a shelf": Case(lambda kit: PartSpec([], "full"), UnknownName, "shelf []", SHELF_NAMES),
    "a number for a name": Case(lambda kit: PartSpec("length", 3), BadOption, "got 3", "name of a length must be"),
    "no name": Case(lambda kit: PartSpec("length", ""), BadOption, "got ''", "must be a word"),
    "list of options": Case(lambda kit: PartSpec("length", "fixed", [1]), BadOption, "[1]", "a JSON object"),
    "options that JSON lacks": Case(
        lambda kit: PartSpec("length", "fixed", {"draft": {1, 2}}), BadOption, "{1, 2}", "plain JSON values"
    ),
    "option that is no word": Case(lambda kit: PartSpec("length", "fixed", {"a b": 1}), BadOption, "'a b'", "a word"),
    "no part": Case(lambda kit: PartSpec.of(None, "length"), BadOption, "got None", "a JSON object"),
    "no shelf": Case(lambda kit: PartSpec.of("fixed"), BadOption, "'fixed'", "write it like 'selector/fixed'"),
    "another shelf": Case(lambda kit: PartSpec.of("length/zero", "tiers"), BadOption, "length/zero", "shelf 'tiers'"),
    "a dict without a name": Case(
        lambda kit: PartSpec.of({"options": {}}, "tiers"), BadOption, "{'options': {}}", "needs a shelf and a name"
    ),
    "a key too many": Case(lambda kit: PartSpec.of({"nam": "gpu"}, "tiers"), UnknownName, "'nam'", "mean 'name'"),
    "unreadable": Case(lambda kit: PartSpec.of("a b c", "tiers"), BadOption, "'a b c'", "'pillar(budget=0.05"),
    "unreadable and endless": Case(lambda kit: PartSpec.of("a b " * 999, "tiers"), BadOption, "'a b a", "write it"),
    "half of options": Case(lambda kit: PartSpec.of("fixed(draft=)", "length"), BadOption, "draft=", "(budget=0.05)"),
    "bottomless options": Case(lambda kit: PartSpec.of(f"a(b={'[' * 9999})", "length"), BadOption, "a(b=[[", "write"),
    "unknown place": Case(lambda kit: EngineSpec.of(selectr="full"), UnknownName, "selectr", "mean 'selector'"),
    "a number for a part": Case(lambda kit: EngineSpec(selector=3), BadOption, "got 3", "a JSON object"),
    "unknown loop": Case(lambda kit: EngineSpec(loop="synch"), UnknownName, "synch", "did you mean 'sync'"),
    "a list for a loop": Case(lambda kit: EngineSpec(loop=[]), UnknownName, "[]", "have: delayed, resident, sync"),
    "a list for engine options": Case(lambda kit: EngineSpec(engine=[1]), BadOption, "got [1]", "a JSON object"),
    "a part as engine option": Case(lambda kit: EngineSpec(engine={"a": 1j}), BadOption, "got 1j", "plain JSON values"),
    "no dict": Case(lambda kit: EngineSpec.from_dict(None), BadOption, "got None", "a JSON object"),
    "a number for a place": Case(lambda kit: EngineSpec.from_dict({3: 1}), UnknownName, " 3;", "have: attention"),
    "no JSON": Case(lambda kit: EngineSpec.from_json(3), BadOption, "got 3", "the text of a JSON object"),
    "JSON of a list": Case(lambda kit: EngineSpec.from_json("[]"), BadOption, "'[]'", "a JSON object"),
    "JSON in no encoding": Case(lambda kit: EngineSpec.from_json(b"\xff"), BadOption, "xff", "a JSON object"),
    "unknown preset": Case(lambda kit: preset("vega"), UnknownName, "'vega'", "did you mean 'vegas'"),
    "a list for a preset": Case(lambda kit: preset([]), UnknownName, "[]", "have: best, dense"),
}

MAKE = {
    "nothing": Case(lambda kit: make(None), BadOption, "got None", "a name, a spec, or a finished instance"),
    "a number": Case(lambda kit: make(3, shelf="length"), BadOption, "got 3", "a name, a spec, or a finished instance"),
    "a list": Case(lambda kit: make(["full"]), BadOption, "got ['full']", "a name, a spec, or a finished instance"),
    "a class": Case(lambda kit: make(NoPart), BadOption, "NoPart", "a name, a spec, or a finished instance"),
    "an empty name": Case(lambda kit: make("", shelf="length"), BadOption, "''", "write it like"),
    "a name without a shelf": Case(lambda kit: make("pillar"), BadOption, "'pillar'", "'selector/pillar'"),
    "an unknown shelf": Case(lambda kit: make("a", shelf="lengths"), UnknownName, "lengths", "did you mean 'length'"),
    "a list for a shelf": Case(lambda kit: registry.names([]), UnknownName, "shelf []", SHELF_NAMES),
    "a list for a name": Case(lambda kit: registry.lookup("length", []), UnknownName, "[]", "have: "),
    "an unknown name": _options("selector/pilar", "'pilar'", "did you mean 'pillar'", UnknownName),
    "an unknown option": _options("length/fixed(drafts=2)", "'drafts'", "did you mean 'draft'", UnknownName),
    "an option of what has none": _options("length/zero(draft=2)", "'draft'", "have: none", UnknownName),
    "options for an instance": Case(
        lambda kit: make(make("length/fixed"), draft=2), BadOption, "Fixed object", "a name, a spec"
    ),
}

OPTIONS = {
    "selector/window(budget=0)": ("got 0", "in (0, 1]"),
    "selector/window(sinks=-1)": ("got -1", "between 0 and min_budget = 128"),
    "selector/random(seed=-1)": ("got -1", "in [0, 2**63)"),
    "selector/random(min_budget=0)": ("got 0", "1 or more"),
    "selector/oracle(budget=1.5)": ("got 1.5", "in (0, 1]"),
    "selector/oracle(min_budget=few)": ("got 'few'", "a whole number"),
    "selector/pillar(budget=[1])": ("got [1]", "a number"),
    "selector/pillar(budget=true)": ("got True", "a number"),
    "selector/pillar(groups=null)": ("got None", "a whole number or a word"),
    "selector/pillar(recent=-0.5)": ("got -0.5", "in [0, 1]"),
    "selector/pillar(scored=[1,2,3])": ("got [1, 2, 3]", "two numbers of queries"),
    "selector/pillar(scored=[0,0])": ("got [0, 0]", "not both 0"),
    "selector/pillar(pool=2)": ("got 2", "an odd number"),
    "selector/pillar(smooth=1)": ("got 1", "in [0, 1)"),
    "selector/pillar(warm_start=1)": ("got 1", "true or false"),
    "selector/quest(budget=2)": ("got 2", "in (0, 1]"),
    "selector/snapkv(keep=0)": ("got 0", "share of the prompt"),
    "selector/snapkv(min_keep=0)": ("got 0", "1 or more"),
    "selector/snapkv(window=0)": ("got 0", "1 or more"),
    "selector/snapkv(pool=4)": ("got 4", "an odd number"),
    "proposer/ngram(max_ngram=0)": ("max_ngram=0", "1 <= min_ngram <= max_ngram"),
    "proposer/ngram(min_ngram=5)": ("min_ngram=5", "1 <= min_ngram <= max_ngram"),
    "proposer/suffix(min_match=0)": ("min_match=0", "1 <= min_match <= max_match"),
    "proposer/suffix(factor=0.001)": ("got 0.001", "must yield a guess"),
    "length/fixed(draft=-1)": ("draft=-1", "numbers of tokens"),
    "length/fixed(guess=x)": ("got 'x'", "a whole number"),
    "length/ema(least=9,most=3)": ("least=9", "1 <= least <= most"),
    "length/ema(memory=1)": ("got 1", "in [0, 1)"),
    "length/ema(shrink=0.9)": ("shrink=0.9", "shrink < grow"),
    "length/table(batch=[8,4,2,1])": ("got [8, 4, 2, 1]", "a rising list"),
    "length/table(draft=[[1]])": ("got [[1]]", "4 rows, one a batch, of 4 numbers, one a context"),
    "length/table(draft=8)": ("got 8", "4 rows, one a batch"),
    "length/confidence(stop_below=0)": ("got 0", "in (0, 1]"),
    "length/confidence(draft=0)": ("draft=0", "'fixed(draft=0,guess=4)'"),
    "length/cost(draft=0)": ("draft=0", "not both 0"),
    "length/cost(costs=3)": ("got 3", "a word"),
    "length/cost(costs='nobody.json')": ("nobody.json", "`sparsespec profile`"),
    "length/cost(probe=0)": ("got 0", "1 or more"),
    "length/cost(margin=-1)": ("got -1", "0 or more"),
    "scheduler/lockstep(chunk=0)": ("got 0", "1 or more"),
    "scheduler/random(seed=1.5)": ("got 1.5", "a whole number"),
    "scheduler/random(chunk=0)": ("got 0", "1 or more"),
    "scheduler/staggered(gain=0)": ("got 0", "above 0"),
    "scheduler/staggered(chunk=1.5)": ("got 1.5", "a whole number"),
    "tiers/host(victim=oldest)": ("got 'oldest'", "newest, shortest, longest_remaining"),
    "tiers/host(size=0)": ("got 0", "above 0"),
    "tiers/host(low=0.2)": ("got 0.2 and 0.02", "0 <= low <= high < 1"),
    "tiers/host(chunk=0)": ("got 0", "1 or more"),
}

REGISTER = {
    "unknown shelf": _register("selecter", "mean 'selector'", "selecter", "mine", NoPart, kind=UnknownName),
    "a number for a name": _register("got 3", "letters, digits", "selector", 3, NoPart),
    "a name with a slash": _register("got 'a/b'", "letters, digits", "selector", "a/b", NoPart),
    "a taken name": _register("'pillar' is taken", "under another name", "selector", "pillar", NoPart),
    "an instance": _register("NoPart object", "takes a class", "selector", "mine", NoPart()),
    "nothing": _register("got None", "'module:Class'", "selector", "mine", None),
    "a path without a colon": _register("got 'a.b'", "'module:Class'", "selector", "mine", "a.b"),
    "a module that is not there": _lazy("no_such_module:Part", "register what can be imported", "no_such_module:Part"),
    "a class that is not there": _lazy("fractions:Part", "register what can be imported", "fractions:Part"),
    "a function": _lazy("math:floor", "must be a class", "math:floor"),
}

ENGINES = {
    "nothing for a preset": _llm(BadOption, "got None", "a preset's name or an EngineSpec", None),
    "a dict for a preset": _llm(BadOption, "{'loop': 'sync'}", "a preset's name or an EngineSpec", {"loop": "sync"}),
    "unknown preset": _llm(UnknownName, "'sparse'", "did you mean 'sparsespec'", "sparse"),
    "unknown option": _llm(UnknownName, "'max_seqs'", "did you mean 'max_num_seqs'", max_seqs=2),
    "an option of vLLM": _llm(UnknownName, "enforce_eager", "is called graphs here", enforce_eager=True),
    "unknown option in a spec": _llm(UnknownName, "'pages'", "have: block_size", EngineSpec(engine={"pages": 4})),
    "no such kind of device": _llm(BadOption, "got 'tpu'", "device is 'cpu', 'cuda'", device="tpu"),
    "no device of this number": _llm(BadOption, "device 'cuda:99'", "'cpu' works anywhere", device="cuda:99"),
    "a device that is no name": _llm(BadOption, "got 3.5", "device is 'cpu', 'cuda'", device=3.5),
    "too many seats": _llm(
        BadOption, "10000000 requests", "lower num_gpu_blocks, max_num_seqs or max_model_len", max_num_seqs=10**7
    ),
    "no seats": _llm(BadOption, "got 0", "max_num_seqs is a whole number of 1 or more", max_num_seqs=0),
    "bool for pages": _llm(BadOption, "got True", "num_gpu_blocks is a whole number of 2 or more", num_gpu_blocks=True),
    "more pages than memory": _llm(BadOption, f"{10**12} pages", "lower num_gpu_blocks", num_gpu_blocks=10**12),
    "more context than the model": _llm(BadOption, "got 999", "at most the model's 256", max_model_len=999),
    "a word for exact": _llm(BadOption, "got 'yes'", "exact is True or False", exact="yes"),
    "exact in float64": _llm(BadOption, "got torch.float64", "exact=True takes", dtype="float64", exact=True),
    "a number for a part": _llm(BadOption, "got 3", "a name, a spec, or a finished part", selector=3),
    "another shelf's part": _llm(BadOption, "NoPart object", "with a length's verbs", length=NoPart()),
    "a class for a part": _llm(BadOption, "NoPart", "a finished instance", length=NoPart),
    "groups": _llm(BadOption, "got 'head'", "or be 'heads'", selector="pillar(groups=head)"),
    "0 groups": _llm(BadOption, "got 0", "must divide the 2 KV heads", selector="random(groups=0)"),
    "drafts without a level": _llm(BadOption, "has no draft level", "use selector='full'", selector="none"),
    "guesses that no round takes": _llm(
        BadOption, "proposer 'ngram' makes guesses and length 'fixed'", "use proposer='none'", proposer="ngram"
    ),
    "a table for fewer requests": _llm(
        BadOption, "max_num_seqs=8", "add to the table", length="table(batch=[4],context=[4096],draft=[[4]])"
    ),
    "a table for shorter texts": _llm(
        BadOption, "max_model_len=256", "or lower max_model_len", length="table(batch=[8],context=[99],draft=[[4]])"
    ),
    "a word for a tokenizer": _llm(BadOption, "got 'gpt2'", "a Tokenizer(folder) or None", tokenizer="gpt2"),
    "a model's name": Case(lambda kit: Engine.compose("tiny"), BadOption, "got 'tiny'", "LLM takes names"),
    "no model": Case(lambda kit: Engine.compose(None), BadOption, "got None", "needs a loaded model"),
    "one end token": Case(lambda kit: kit.engine(eos_ids=3), BadOption, "got 3", "eos_ids is a list of token ids"),
    "end tokens in words": Case(lambda kit: kit.engine(eos_ids=["x"]), BadOption, "got ['x']", "a list of token ids"),
    "a decoder that is none": Case(lambda kit: kit.engine(decoder=3), BadOption, "got 3", "makes a fresh decoder"),
    "a device's name": Case(lambda kit: kit.engine(device="cuda"), BadOption, "got 'cuda'", "like LazyDevice()"),
    "closed": Case(lambda kit: _closed(kit).step(), EngineClosed, "the engine is closed", "compose a new one"),
}

REQUESTS = {
    "no prompt": _request("got None", "a text, a list of token ids, or a list of those", None),
    "a number": _request("got 5", "a text, a list of token ids", 5),
    "a dict": _request("got {'a': 1}", "a text, a list of token ids", {"a": 1}),
    "a set": _request("got {1, 2}", "a text, a list of token ids", {1, 2}),
    "bytes": _request("got b'abc'", "a text, a list of token ids", b"abc"),
    "text without a tokenizer": _request("without a tokenizer", "give the prompt as token ids", "text"),
    "beyond the vocabulary": _request("token 61", "the model's 0 … 60", [1, 61]),
    "below 0": _request("token -1", "the model's 0 … 60", [-1]),
    "a hole": _request("token None", "the model's 0 … 60", [1, None]),
    "bools": _request("token True", "the model's 0 … 60", [True]),
    "an array of floats": _request("token np.float64(1.0)", "the model's 0 … 60", np.array([1.0, 2.0])),
    "too long": _request("has 300 tokens", "shorten the prompt to at most 255", [1] * 300),
    "too much output": _request("max_tokens=999", "to at most 253", [1, 2, 3], SamplingParams(max_tokens=999)),
    "a number for params": _request("got 3", "give one SamplingParams", [1], 3),
    "a dict for params": _request("got {'n': 1}", "give one SamplingParams", [1], {"n": 1}),
    "dicts for params": _request("got [{'n': 1}]", "one for each of the 1 prompts", [[1]], [{"n": 1}]),
    "params too few": _request("got 1", "one for each of the 2 prompts", [[1], [2]], [FEW]),
    "dict to an engine": Case(
        lambda kit: kit.llm.engine.add([1], {"n": 1}), BadRequest, "got {'n': 1}", "SamplingParams.from_dict"
    ),
    "nothing to an engine": Case(lambda kit: kit.llm.engine.add(None), BadRequest, "got None", "a list of token ids"),
    "an empty prompt": Case(lambda kit: kit.llm.engine.add([]), BadRequest, "is empty", "at least one token"),
    "an empty stream": Case(lambda kit: list(kit.llm.stream([])), BadRequest, "is empty", "at least one token"),
    "a stream of a number": Case(lambda kit: list(kit.llm.stream(3)), BadRequest, "got 3", "text or a list"),
    "a stream of two prompts": Case(lambda kit: list(kit.llm.stream([[1]])), BadRequest, "[1]", "0 … 60"),
    "a stream with a dict": Case(lambda kit: list(kit.llm.stream([1], {"n": 1})), BadRequest, "{'n': 1}", "from_dict"),
    "no conversation": Case(lambda kit: kit.texts.chat(None), BadRequest, "got None", "a list of messages"),
    "a text": Case(lambda kit: kit.texts.chat("hi"), BadRequest, "got 'hi'", "'role': 'user'"),
    "one message": Case(lambda kit: kit.texts.chat(MESSAGES[0]), BadRequest, "the fox", "a list of messages"),
    "a hole in a conversation": Case(
        lambda kit: kit.texts.chat([*MESSAGES, None]), BadRequest, "None]", "messages with 'role' and 'content'"
    ),
    "a message without a role": Case(
        lambda kit: kit.texts.chat([{"content": "x"}]), BadOption, "a chat needs", "each with 'role' and 'content'"
    ),
    "chat without a tokenizer": Case(lambda kit: kit.llm.chat(MESSAGES), BadRequest, "without a tokenizer", "token id"),
    "chat with a dict": Case(lambda kit: kit.texts.chat(MESSAGES, {"n": 1}), BadRequest, "{'n': 1}", "SamplingParams"),
}

WRAPPERS = {
    "nothing to check": Case(lambda kit: CheckLossless(None, kit.engine()), BadOption, "None", "around an engine"),
    "nothing dense": Case(lambda kit: CheckLossless(kit.engine(), None), BadOption, "dense", "preset 'dense'"),
    "a dense that drafts": Case(
        lambda kit: CheckLossless(kit.engine(), kit.engine("sparsespec")), BadOption, "dense", "preset 'dense'"
    ),
    "itself": Case(lambda kit: CheckLossless(*[kit.engine()] * 2), BadOption, "dense", "another engine"),
    "nothing to trace": Case(lambda kit: RecordTrace(None), BadOption, "None", "around an engine"),
    "no folder to trace to": Case(
        lambda kit: RecordTrace(kit.engine(), kit.tmp / "no" / "t.jsonl"), BadOption, "t.jsonl", "a folder that exists"
    ),
    "a folder to trace to": Case(
        lambda kit: RecordTrace(kit.engine(), str(kit.tmp)), BadOption, "Is a directory", "give a file"
    ),
}

MODELS = {
    "nothing": Case(lambda kit: load_model(None), BadModel, "got None", "a folder, a hub id org/name, an alias"),
    "a number": Case(lambda kit: LLM(3), BadModel, "got 3", "a folder, a hub id org/name, an alias"),
    "an empty name": Case(lambda kit: load_model(""), BadModel, "got ''", "a folder, a hub id org/name, an alias"),
    "unknown": Case(lambda kit: LLM("smollm3"), UnknownName, "'smollm3'", "did you mean 'smollm2'"),
    "no folder": Case(lambda kit: load_model(kit.tmp / "no"), BadModel, "/no", "a hub id org/name, or an alias"),
    "a file": Case(
        lambda kit: load_model(kit.folder / "config.json"), BadModel, "config.json", "the folder that holds"
    ),
    "an empty folder": Case(lambda kit: load_model(kit.tmp), BadModel, "is missing", "needs config.json"),
    "the folder of tiny": Case(lambda kit: resolve("tiny"), BadModel, "'tiny'", "use load('tiny')"),
    "unknown dtype": Case(lambda kit: load("tiny", "int4"), UnknownName, "'int4'", "have: bfloat16"),
    "unknown device": Case(lambda kit: load("tiny", device="banana"), BadOption, "'banana'", "use 'cpu'"),
    "unknown family": Case(lambda kit: tiny("gpt2"), UnknownName, "'gpt2'", "have: llama, qwen2, qwen3"),
    "heads that do not divide": Case(lambda kit: tiny(n_heads=3), BadModel, "got 3 and 2", "a multiple"),
    "no heads": Case(lambda kit: tiny(n_kv_heads=0), BadModel, "got 0", "n_kv_heads must be a whole number above 0"),
    "no vocabulary": Case(lambda kit: tiny(vocab=0), BadModel, "got 0", "vocab must be a whole number above 0"),
    "a width in words": Case(lambda kit: tiny(hidden="wide"), BadModel, "got 'wide'", "a whole number above 0"),
}

CHECKS = {
    "nothing": Case(lambda kit: check_selector(None), BadOption, "got None", "a finished instance"),
    "a list": Case(lambda kit: check_proposer([1]), BadOption, "got [1]", "a finished instance"),
    "a class": Case(lambda kit: check_tiers(NoPart), BadOption, "NoPart", "a finished instance"),
    "unknown": Case(lambda kit: check_selector("pilar"), UnknownName, "'pilar'", "did you mean 'pillar'"),
    "another shelf": Case(lambda kit: check_length("tiers/gpu"), BadOption, "tiers/gpu", "shelf 'length' is wanted"),
    "bad options": Case(lambda kit: check_length("fixed(draft=x)"), BadOption, "got 'x'", "a whole number"),
    "no examples": Case(lambda kit: check_scheduler("lockstep", examples=0), BadOption, "got 0", "1 or more"),
    "examples in words": Case(lambda kit: check_verifier("greedy", examples="x"), BadOption, "'x'", "1 or more"),
    "half an example": Case(lambda kit: check_selector("full", examples=0.5), BadOption, "0.5", "1 or more"),
}

COMPARISONS = {
    "unknown preset": _compare("'sparsepec'", "mean 'sparsespec'", "sparsepec", kind=UnknownName),
    "unknown change": _compare("'lop'", "mean 'loop'", "ngram:lop=sync", kind=UnknownName),
    "no requests": _compare("got 0", "1 or more", "ngram", max_num_seqs=[0]),
    "a budget without a selector": _compare(
        "dense, ngram", "compare a composition that drafts", "ngram", budgets=[0.1]
    ),
    "no tokens": _compare("got 0", "at least 1", "ngram", max_tokens=0, kind=BadRequest),
    "no file": Case(
        lambda kit: sparsespec.compare("tiny", ["ngram"], kit.folder / "none.jsonl"),
        BadRequest,
        "none.jsonl",
        "JSON lines",
    ),
}

TABLE: dict[str, dict[str, Case]] = {
    "SamplingParams": SAMPLING,
    "EngineSpec": SPECS,
    "make": MAKE | {spec: _options(spec, *says) for spec, says in OPTIONS.items()},
    "register": REGISTER,
    "Engine": ENGINES,
    "LLM": REQUESTS,
    "CheckLossless, RecordTrace": WRAPPERS,
    "load_model": MODELS,
    "compare": COMPARISONS,
    "sparsespec.testing": CHECKS,
}


def _closed(kit: Kit) -> Engine:
    engine = kit.engine()
    engine.close()
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def llms(folder: Path) -> tuple[LLM, LLM]:
    return LLM(tiny()), LLM(folder)


@pytest.fixture
def kit(llms: tuple[LLM, LLM], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    return Kit(*llms, folder, tmp_path)


def refused(case: Case, kit: Kit) -> None:
    with pytest.raises(SparseSpecError) as caught:
        case.call(kit)
    message = str(caught.value)
    assert type(caught.value) is case.kind, message
    assert is_sentence(message), message
    assert len(message) < LONGEST
    assert case.got in message
    assert case.works in message


@pytest.mark.parametrize(("where", "name"), [(where, name) for where, cases in TABLE.items() for name in cases])
def test_wrong_input_is_answered_in_one_sentence_that_says_what_would_work(where: str, name: str, kit: Kit) -> None:
    refused(TABLE[where][name], kit)


def test_what_was_refused_costs_the_engine_nothing(kit: Kit) -> None:
    for case in REQUESTS.values():
        refused(case, kit)
    assert not kit.llm.engine.has_work
    assert not kit.texts.engine.has_work
    assert len(kit.llm.generate([1, 2, 3], FEW)[0].outputs[0].token_ids) == 3


def test_the_table_walks_everything_public() -> None:
    walked = {name for where in TABLE for name in where.split(", ")}
    values = {"PRESETS", "SparseSpecError", "__version__"}
    assert set(sparsespec.__all__) - values <= walked
    assert sum(map(len, TABLE.values())) >= 60


def test_the_table_walks_every_part_that_has_options() -> None:
    rows = {f"{shelf}/{row.name}": row for shelf in SHELVES for row in registry.describe(shelf)}
    have = {part for part, row in rows.items() if row.origin == "sparsespec" and row.options}
    assert have <= {spec.partition("(")[0] for spec in OPTIONS}


def _json(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, **changes)


def _file(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, "utf-8")


def _index(weights: Any) -> Callable[[Path], object]:
    return _file("model.safetensors.index.json", json.dumps({"weight_map": weights}))


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "config of a list": (_file("config.json", "[]"), "got list", "a JSON object"),
    "bottomless config": (_file("config.json", "[" * 99999), "config.json", "download it again"),
    "another family": (_json(model_type=["llama"]), "['llama']", "supported: llama, qwen2, qwen3"),
    "layers in words": (_json(num_hidden_layers="2"), "got '2'", "a whole number above 0"),
    "epsilon in words": (_json(rms_norm_eps="small"), "got 'small'", "a number, 0 or more"),
    "negative epsilon": (_json(rms_norm_eps=-1), "got -1", "a number, 0 or more"),
    "end token in words": (_json(eos_token_id="</s>"), "got '</s>'", "a token id or a list of them"),
    "a table of end tokens": (_json(eos_token_id={"a": 1}), "got {'a': 1}", "a token id or a list of them"),
    "one layer type": (_json(layer_types=3), "got 3", "a list of words"),
    "unsupported layer types": (_json(layer_types=["mamba"]), "['mamba']", "supported: full_attention"),
    "theta in words": (_json(rope_parameters={"rope_theta": "big"}), "got 'big'", "'rope_theta' to be a number"),
    "theta of 0": (_json(rope_parameters={"rope_theta": 0}), "got 0", "'rope_theta' to be above 0"),
    "part of the head": (_json(partial_rotary_factor="half"), "got 'half'", "to be a number"),
    "no original context": (
        _json(rope_parameters=YARN | {"original_max_position_embeddings": 0}),
        "got 0",
        "'original_max_position_embeddings' to be above 0",
    ),
    "beta in words": (_json(rope_parameters=YARN | {"beta_fast": "x"}), "got 'x'", "'beta_fast' to be a number"),
    "shards without names": (_index({"a": 3}), "weight_map", "from names to files"),
    "a folder for a shard": (_index({"a": "."}), "/m is missing", "download that shard"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wrong_model_folder_is_answered_likewise(name: str, folder: Path, tmp_path: Path, kit: Kit) -> None:
    mar, got, works = FOLDERS[name]
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    mar(copy)
    refused(Case(lambda kit: load_model(copy), BadModel, got, works), kit)


def test_a_package_that_a_registered_part_lacks_is_named(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_part_that_lacks.py").write_text("import surely_not_installed\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    case = _lazy("'surely_not_installed'", "pip install", "a_part_that_lacks:Part", MissingPackage)
    refused(case, kit)
