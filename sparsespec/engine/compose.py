"""From a preset and changes to the parts and options of an engine; raises for what does not exist or fit together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from sparsespec.core import registry
from sparsespec.core.capabilities import providers
from sparsespec.core.errors import BadOption, show
from sparsespec.core.protocols import Attention, Length, Proposer, Scheduler, Selector, Tiers, Verifier
from sparsespec.core.spec import SHELVES, EngineSpec, PartLike, PartSpec, preset
from sparsespec.core.vllm_names import unknown_option
from sparsespec.engine.parts import Parts
from sparsespec.engine.sizes import Options
from sparsespec.kernels.implementations import fastest
from sparsespec.models.transformer import Transformer

_log = logging.getLogger(__name__)

PROMISES = dict(zip(SHELVES, (Selector, Proposer, Length, Scheduler, Tiers, Attention, Verifier), strict=True))
OPTIONS = tuple(f.name for f in fields(Options))


def compose(
    base: str | EngineSpec, changes: Mapping[str, Any], model: Transformer | None = None
) -> tuple[Parts, str, Options]:
    """Return parts, loop and options of `base` with `changes`; raises where something does not exist or fit.

    A preset's name leaves open which attention backend runs and whether CUDA graphs are recorded. That follows from the
    model's device, is logged, and is part of the engine's spec. Without a model it is what suits a CPU.
    """
    if not isinstance(base, str | EngineSpec):
        raise BadOption(f"a composition begins with a preset's name or an EngineSpec, got {show(base)}")
    spec = preset(base).spec if isinstance(base, str) else base
    options = dict(spec.engine)
    parts: dict[str, PartLike] = {"attention": _backend(model)} if isinstance(base, str) and model else {}
    instances: dict[str, Any] = {}
    for name, value in changes.items():
        if name in OPTIONS:
            options[name] = value
        elif name not in (*SHELVES, "loop"):
            raise unknown_option("engine option", name, (*SHELVES, "loop", *OPTIONS))
        elif name == "loop" or isinstance(value, (str, PartSpec, Mapping)):
            parts[name] = value
        elif isinstance(value, (type, PROMISES[name])):  # a class is refused where parts are made
            instances[name] = value
        else:
            raise BadOption(
                f"{name} must be a name, a spec, or a finished part with a {name}'s verbs, got {show(value)}"
            )
    spec = spec.replace(**parts)
    for name in options:
        if name not in OPTIONS:
            raise unknown_option("engine option", name, OPTIONS)
    made = Parts.make(spec, instances)
    return (
        made,
        spec.loop,
        _with_graphs(Options(**options), made, on_gpu=model is not None and model.device.type == "cuda"),
    )


def _backend(model: Transformer) -> str:
    """Return the attention backend for where the model is."""
    name = fastest(model.parameters.embed)
    _log.info("attention %r, for %s on %s", name, model.dtype, model.device)
    return name


def _with_graphs(options: Options, parts: Parts, *, on_gpu: bool) -> Options:
    """Return options that say whether graphs are recorded; raises where they are wanted and cannot be."""
    if not on_gpu:
        return replace(options, graphs=bool(options.graphs))
    on_device = ("selector", "proposer", "attention", "verifier")
    cannot = [shelf for shelf in on_device if "capturable" not in getattr(parts, shelf).provides]
    if options.checked:
        cannot.append("checked")
    if cannot and options.graphs:
        specs: Mapping[str, object] = parts.specs()
        names = " and ".join(f"{name} {str(specs[name])!r}" if name in specs else "checked=True" for name in cannot)
        raise BadOption(f"graphs=True cannot record {names}; use graphs=False, or parts that provide 'capturable'")
    if cannot and options.graphs is None:
        _log.info("CUDA graphs are off: %s cannot be recorded", ", ".join(cannot))
    return replace(options, graphs=not cannot if options.graphs is None else options.graphs)


def exact_of(model: Transformer, parts: Parts) -> Transformer:
    """Return the exact twin of a model; raises where it, or the attention beside it, computes otherwise."""
    twin = model.exact()
    if "batch_invariant" not in parts.attention.provides:
        name = registry.name_of("attention", type(parts.attention))
        raise BadOption(
            f"exact=True needs 'batch_invariant', which attention {name!r} does not provide; use an attention that "
            f"does: {', '.join(providers('attention', 'batch_invariant'))}"
        )
    return twin


def check_arguments(model: object, decoder: object, eos_ids: object, device: object) -> None:
    """Raise `BadOption` for a model, decoder, end tokens or device of the wrong kind."""
    if not isinstance(model, Transformer):
        raise BadOption(f"an engine needs a loaded model, got {show(model)}; LLM takes names and folders")
    if decoder is not None and not callable(decoder):
        raise BadOption(f"decoder is a function that makes a fresh decoder, or None, got {show(decoder)}")
    if eos_ids is not None and not (isinstance(eos_ids, Collection) and all(isinstance(i, int) for i in eos_ids)):
        raise BadOption(f"eos_ids is a list of token ids, or None for the model's, got {show(eos_ids)}")
    if device is not None and not callable(getattr(device, "launch", None)):
        raise BadOption(f"device is where launches run, like LazyDevice(), or None, got {show(device)}")


def engine_spec_of(parts: Parts, loop: str, options: Options) -> EngineSpec:
    """Return the spec that composes such an engine again."""
    values = {name: getattr(options, name) for name in OPTIONS}
    return EngineSpec(**parts.specs(), loop=loop, engine=values)
