"""`compare`: the same prompts through several compositions, and a row for each beside dense decoding.

Dense decoding always runs first, under every setting: tokens and speed are compared with it. A composition that fails
costs its own rows and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsespec.comparison.models import Model
from sparsespec.comparison.prompts import Prompts
from sparsespec.comparison.row import ComparisonRow
from sparsespec.comparison.runner import Comparison
from sparsespec.comparison.variants import Compositions
from sparsespec.models.catalog import Progress
from sparsespec.models.tokenizer import Tokenizer


def compare(
    models: Model | Sequence[Model] = "smollm2",
    compositions: Compositions | None = None,
    prompts: Prompts | Mapping[str, Prompts] | None = None,
    *,
    n: int | None = None,
    max_tokens: int = 128,
    temperatures: Sequence[float] = (0.0,),
    seeds: Sequence[int] = (0,),
    max_num_seqs: Sequence[int] = (8,),
    budgets: Sequence[float] = (),
    min_budgets: Sequence[int] = (),
    ignore_eos: bool = False,
    chat: bool = True,
    dtype: str = "float32",
    exact: bool = False,
    device: str | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> list[ComparisonRow]:
    """Decode the same prompts with several compositions, and return a row for each under each setting.

    A setting is a model, a set of prompts, a temperature, a seed and a `max_num_seqs`; its first row is dense decoding.

    Args:
        models: Names, folders, hub ids or loaded models.
        compositions: Presets, perhaps with changes, like `"sparsespec:selector=window,loop=sync"`, and specs; either of
            them by names of your own. None is every preset.
        prompts: A `Path` to JSON lines with a field `prompt`, `problem` or `question`; a list of texts and token ids;
            either of them by name; None generates prompts.
        n: Prompts of each set, from its beginning; None is all, or 8 that are generated.
        max_tokens: New tokens of each prompt, at most.
        temperatures: 0 is greedy, and has one row whatever the seeds. The model's own default is not used here: all
            models and compositions are measured under the same settings.
        seeds: From each, every prompt gets a seed of its own.
        max_num_seqs: Requests that run at once.
        budgets: Shares of the context; each selector with a `budget` is compared at all of them.
        min_budgets: Tokens; likewise for selectors with a `min_budget`.
        ignore_eos: Go on past the model's end-of-sequence tokens.
        chat: Render texts as a user's turn by the model's chat template.
        dtype: Type of weights and KV; in half types outputs may part at near-ties, unless engines are `exact`.
        exact: Make all engines exact, that of dense decoding too: it takes a GPU.
        device: "cpu" or a CUDA device; None is "cpu", or where a loaded model is.
        tokenizer: For models that were passed in loaded; None works with token ids only.
        progress: Called as `progress(label, done, total)`.

    Raises:
        SparseSpecError: for what can be checked before anything is decoded; later errors are in the rows.
    """
    given = dict(locals())
    progress = given.pop("progress")
    return list(Comparison(**given).rows(progress))
