"""Wrong input to everything public, in one table: what is raised, that it shows what it got, and says what would work.

Options of parts have a table of their own in `tests/core/test_options.py`, `compare` in `tests/comparison`, and the
command line in `tests/cli`; what requests are refused for beyond their form is in `tests/engine`.
"""

from __future__ import annotations

import math
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
from sparsespec.core.spec import PartSpec, preset
from sparsespec.llm import load_model
from sparsespec.models.catalog import load, resolve
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.testing import (
    check_length,
    check_proposer,
    check_scheduler,
    check_selector,
    check_tiers,
    check_verifier,
)
from tests.refusals import assert_refused

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


def _part(got: str, works: str, value: Any, kind: type[SparseSpecError] = BadOption, shelf: Any = "selector") -> Case:
    return Case(lambda kit: PartSpec.of(value, shelf), kind, got, works)


def _chat(got: str, works: str, messages: Any, kind: type[SparseSpecError] = BadRequest) -> Case:
    return Case(lambda kit: kit.texts.chat(messages), kind, got, works)


def _options(spec: str, got: str, works: str, kind: type[SparseSpecError] = BadOption) -> Case:
    return Case(lambda kit: make(spec), kind, got, works)


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
    "top_p above 1": _params("got 1.01", "in (0, 1]", top_p=1.01),
    "top_p nan": _params("got nan", "top_p must be finite", top_p=math.nan),
    "top_k below -1": _params("got -2", "top_k must be a whole number of at least -1", top_k=-2),
    "half a top_k": _params("got 1.5", "top_k must be a whole number", top_k=1.5),
    "min_p above 1": _params("got 1.1", "min_p must be in [0, 1]", min_p=1.1),
    "min_p below 0": _params("min_p", "not negative, got -0.1", min_p=-0.1),
    "no new tokens": _params("got 0", "max_tokens must be a whole number of at least 1", max_tokens=0),
    "no max_tokens": _params("got None", "max_tokens must be a whole number", max_tokens=None),
    "bool max_tokens": _params("got True", "max_tokens must be a whole number", max_tokens=True),
    "numpy max_tokens": _params("got np.int64(3)", "max_tokens must be a whole number", max_tokens=np.int64(3)),
    "no samples": _params("got 0", "n must be a whole number of at least 1", n=0),
    "bool samples": _params("got True", "n must be a whole number of at least 1", n=True),
    "logprobs below 0": _params("got -1", "logprobs must be a whole number of at least 0", logprobs=-1),
    "bool logprobs": _params("got False", "logprobs must be a whole number of at least 0", logprobs=False),
    "negative seed": _params("got -1", "seed must be a whole number of at least 0", seed=-1),
    "seed of 65 bits": _params(str(1 << 64), "in [0, 2**64)", seed=1 << 64),
    "seed as text": _params("got '7'", "seed must be a whole number", seed="7"),
    "half a seed": _params("got 0.5", "seed must be a whole number", seed=0.5),
    "only an empty stop string": _params("got ''", "not empty", stop=""),
    "empty stop string": _params("got ['a', '']", "not empty", stop=["a", ""]),
    "bytes to stop at": _params("got b'x'", "stop must be a list", stop=b"x"),
    "a number to stop at": _params("got 7", "stop must be a list", stop=7),
    "a table to stop at": _params("got {'a': 1}", "stop must be a list", stop={"a": 1}),
    "stop token below 0": _params("got -1", "each of stop_token_ids must be a whole number", stop_token_ids=[-1]),
    "stop tokens as text": _params("got '12'", "stop_token_ids must be a list", stop_token_ids="12"),
    "one stop token": _params("got 7", "stop_token_ids must be a list", stop_token_ids=7),
    "float stop token": _params("got 1.5", "each of stop_token_ids must be a whole number", stop_token_ids=[2, 1.5]),
    "ignore_eos as a number": _params("got 1", "ignore_eos must be True or False", ignore_eos=1),
    "speculate as a word": _params("got 'no'", "speculate must be True or False", speculate="no"),
    "no word on speculate": _params("got None", "speculate must be True or False", speculate=None),
    "misspelt": Case(lambda kit: SamplingParams(temprature=1), UnknownName, "temprature", "mean 'temperature'"),
    "unsupported": Case(lambda kit: SamplingParams(best_of=2), UnknownName, "best_of", "n draws independent samples"),
    "a list for a dict": Case(lambda kit: SamplingParams.from_dict([1]), BadRequest, "[1]", "a table of names"),
    "a number for a name": Case(lambda kit: SamplingParams.from_dict({1: 2}), UnknownName, "parameter 1;", HAVE_PARAMS),
    "JSON of a list": Case(lambda kit: SamplingParams.from_json("[1]"), BadRequest, "'[1]'", "a JSON object"),
    "JSON of a number": Case(lambda kit: SamplingParams.from_json("3"), BadRequest, "'3'", "a JSON object"),
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
    "option that is a number": _part("1", "must be a word", {"name": "pillar", "options": {1: 1}}),
    "option that Python keeps": _part("'else'", "must be a word", {"name": "pillar", "options": {"else": 1}}),
    "number deep inside": _part("1", "strings as names", {"name": "pillar", "options": {"x": {1: 1}}}),
    "nan for an option": _part("nan", "finite", {"name": "pillar", "options": {"x": math.nan}}),
    "a set for an option": _part("{1}", "plain JSON values", {"name": "pillar", "options": {"x": {1}}}),
    "options in a list": _part("[1]", "a JSON object", {"name": "pillar", "options": [1]}),
    "nearly options": _part("'option'", "mean 'options'", {"name": "pillar", "option": {}}, UnknownName),
    "number for a part": _part("got 3", "a JSON object", 3),
    "part of no shelf": _part("'selecter'", "mean 'selector'", "selecter/pillar", UnknownName, shelf=None),
    "no part": Case(lambda kit: PartSpec.of(None, "length"), BadOption, "got None", "a JSON object"),
    "no shelf": Case(lambda kit: PartSpec.of("fixed"), BadOption, "'fixed'", "write it like 'selector/fixed'"),
    "another shelf": Case(lambda kit: PartSpec.of("length/zero", "tiers"), BadOption, "length/zero", "shelf 'tiers'"),
    "a dict without a name": _part("{'options': {}}", "needs a shelf and a name", {"options": {}}),
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
    "half of JSON": Case(lambda kit: EngineSpec.from_json("{"), BadOption, "'{'", "a JSON object"),
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
    "names of no shelf": Case(lambda kit: registry.names("selecter"), UnknownName, "'selecter'", "mean 'selector'"),
    "a list for a shelf": Case(lambda kit: registry.names([]), UnknownName, "shelf []", SHELF_NAMES),
    "a list for a name": Case(lambda kit: registry.lookup("length", []), UnknownName, "[]", "have: "),
    "an unknown name": _options("selector/pilar", "'pilar'", "did you mean 'pillar'", UnknownName),
    "an unknown option": _options("length/fixed(drafts=2)", "'drafts'", "did you mean 'draft'", UnknownName),
    "an option of what has none": _options("length/zero(draft=2)", "'draft'", "have: none", UnknownName),
    "options for an instance": Case(
        lambda kit: make(make("length/fixed"), draft=2), BadOption, "Fixed object", "a name, a spec"
    ),
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

SIZES: tuple[tuple[str, int, tuple[Any, ...]], ...] = (
    ("max_num_seqs", 1, (0, None, 1.5, True)),
    ("block_size", 1, (None, -4)),
    ("num_gpu_blocks", 2, (1, True)),
    ("max_model_len", 2, (0, 1)),
)
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
    **{
        f"{name}={value!r}": _llm(
            BadOption, f"got {value!r}", f"{name} is a whole number of {least} or more", **{name: value}
        )
        for name, least, values in SIZES
        for value in values
    },
    "more pages than memory": _llm(BadOption, f"{10**12} pages", "lower num_gpu_blocks", num_gpu_blocks=10**12),
    "more context than the model": _llm(BadOption, "got 257", "at most the model's 256", max_model_len=257),
    "a word for a seed": _llm(BadOption, "got 'x'", "seed is a whole number", seed="x"),
    "a word for checked": _llm(BadOption, "got 'yes'", "checked is True or False", checked="yes"),
    **{
        f"graphs={x!r}": _llm(BadOption, f"got {x!r}", "graphs is True, False or None", graphs=x)
        for x in (1, "yes", 0.5)
    },
    "a word for exact": _llm(BadOption, "got 'yes'", "exact is True or False", exact="yes"),
    "exact in float64": _llm(BadOption, "got torch.float64", "exact=True takes", dtype="float64", exact=True),
    "unknown part": _llm(UnknownName, "'pilar'", "did you mean 'pillar'", selector="pilar"),
    "unknown part in a dict": _llm(UnknownName, "'lockstp'", "mean 'lockstep'", scheduler={"name": "lockstp"}),
    "unknown option of a part": _llm(UnknownName, "'sink'", "did you mean 'sinks'", selector="window(sink=4)"),
    "an option that cannot work": _llm(BadOption, "got 0.0", "in (0, 1]", selector="pillar(budget=0.0)"),
    "unknown shelf": _llm(UnknownName, "'selectors'", "did you mean 'selector'", selectors="full"),
    "unknown loop": _llm(UnknownName, "'residents'", "did you mean 'resident'", loop="residents"),
    "no loop": _llm(UnknownName, "None", "have: delayed, resident, sync", loop=None),
    "a number for a loop": _llm(UnknownName, "1", "have: delayed, resident, sync", loop=1),
    "a name of another shelf": _llm(BadOption, "length/fixed", "shelf 'selector' is wanted", selector="length/fixed"),
    "a part of another shelf": _llm(BadOption, "Fixed object", "with a scheduler's verbs", scheduler=Fixed()),
    "no part": _llm(BadOption, "got None", "a name, a spec, or a finished part", selector=None),
    "a number for a part": _llm(BadOption, "got 3", "a name, a spec, or a finished part", selector=3),
    "another shelf's part": _llm(BadOption, "NoPart object", "with a length's verbs", length=NoPart()),
    "a class for a part": _llm(BadOption, "NoPart", "a finished instance", length=NoPart),
    "groups": _llm(BadOption, "got 'head'", "or be 'heads'", selector="pillar(groups=head)"),
    "0 groups": _llm(BadOption, "got 0", "must divide the 2 KV heads", selector="random(groups=0)"),
    "3 groups": _llm(BadOption, "got 3", "must divide the 2 KV heads", selector="pillar(groups=3)"),
    "drafts without a level": _llm(BadOption, "has no draft level", "use selector='full'", selector="none"),
    "guesses of no proposer": _llm(
        BadOption, "up to 3 guesses", "use proposer='ngram'", length="fixed(draft=0,guess=3)"
    ),
    "drafts and guesses of no proposer": _llm(
        BadOption, "up to 3 guesses", "length with guess=0", selector="full", length="fixed(draft=2,guess=3)"
    ),
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
    "a hole": _request("token None", "the model's 0 … 60", [1, None]),
    "an array of floats": _request("token np.float64(1.0)", "the model's 0 … 60", np.array([1.0, 2.0])),
    "a number for params": _request("got 3", "give one SamplingParams", [1], 3),
    "a dict for params": _request("got {'n': 1}", "give one SamplingParams", [1], {"n": 1}),
    "dicts for params": _request("got [{'n': 1}]", "one for each of the 1 prompts", [[1]], [{"n": 1}]),
    "params too few": _request("got 1", "one for each of the 2 prompts", [[1], [2]], [FEW]),
    "params too many": _request("got 3", "one for each of the 2 prompts", [[1], [2]], [FEW] * 3),
    "dict to an engine": Case(
        lambda kit: kit.llm.engine.add([1], {"n": 1}), BadRequest, "got {'n': 1}", "SamplingParams.from_dict"
    ),
    "nothing to an engine": Case(lambda kit: kit.llm.engine.add(None), BadRequest, "got None", "a list of token ids"),
    "an empty prompt": Case(lambda kit: kit.llm.engine.add([]), BadRequest, "is empty", "at least one token"),
    "an empty stream": Case(lambda kit: list(kit.llm.stream([])), BadRequest, "is empty", "at least one token"),
    "a stream of a number": Case(lambda kit: list(kit.llm.stream(3)), BadRequest, "got 3", "text or a list"),
    "a stream of two prompts": Case(lambda kit: list(kit.llm.stream([[1]])), BadRequest, "[1]", "0 … 60"),
    "a stream with a dict": Case(lambda kit: list(kit.llm.stream([1], {"n": 1})), BadRequest, "{'n': 1}", "from_dict"),
    "no conversation": _chat("got None", "a list of messages", None),
    "a text": _chat("got 'hi'", "'role': 'user'", "hi"),
    "one message": _chat("the fox", "a list of messages", MESSAGES[0]),
    "a hole in a conversation": _chat("None]", "messages with 'role' and 'content'", [*MESSAGES, None]),
    "a message without a role": _chat("a chat needs", "each with 'role' and 'content'", [{"content": "x"}], BadOption),
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
    "a path to no folder": Case(lambda kit: LLM("./nowhere"), BadModel, "nowhere", "a hub id org/name, or an alias"),
    "an absolute one": Case(lambda kit: resolve("/no/such"), BadModel, "no folder /no/such", "a hub id org/name"),
    "nothing like it": Case(lambda kit: resolve("gpt"), UnknownName, "'gpt'", "have: smollm2, tiny"),
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

TABLE: dict[str, dict[str, Case]] = {
    "SamplingParams": SAMPLING,
    "EngineSpec": SPECS,
    "make": MAKE,
    "register": REGISTER,
    "Engine": ENGINES,
    "LLM": REQUESTS,
    "CheckLossless, RecordTrace": WRAPPERS,
    "load_model": MODELS,
    "sparsespec.testing": CHECKS,
}


def _closed(kit: Kit) -> Engine:
    engine = kit.engine()
    engine.close()
    return engine


@pytest.fixture(scope="module")
def llms(folder: Path) -> tuple[LLM, LLM]:
    return LLM(tiny()), LLM(folder)


@pytest.fixture
def kit(llms: tuple[LLM, LLM], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    return Kit(*llms, folder, tmp_path)


def refused(case: Case, kit: Kit) -> None:
    assert_refused(lambda: case.call(kit), case.kind, case.got, case.works)


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
    elsewhere = {"PRESETS", "SparseSpecError", "__version__", "compare"}
    assert set(sparsespec.__all__) - elsewhere <= walked
    assert sum(map(len, TABLE.values())) >= 60


def test_a_package_that_a_registered_part_lacks_is_named(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_part_that_lacks.py").write_text("import surely_not_installed\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    case = _lazy("'surely_not_installed'", "pip install", "a_part_that_lacks:Part", MissingPackage)
    refused(case, kit)
