"""Names that callers bring along from vLLM: what each is called here, or that it is not supported and why.

One table of names and what is said of them. It holds arguments of vLLM's `LLM` and `EngineArgs`, fields of its
`SamplingParams`, and keywords of its `LLM.generate` and `LLM.chat`; not those whose name and meaning are the same here.
"""

from __future__ import annotations

from collections.abc import Iterable

from sparsespec.core import errors

# (names, what is said of each): a sentence is "<name> <what is said>"
_GROUPS: tuple[tuple[str, str], ...] = (
    # LLM and EngineArgs
    (
        "speculative_config speculative_model num_speculative_tokens num_lookahead_slots",
        "is a preset here, or parts of your own, such as LLM(model, 'sparsespec', length='fixed(draft=8)')",
    ),
    (
        "ngram_prompt_lookup_max ngram_prompt_lookup_min",
        "is an option of a part here: proposer='ngram(max_ngram=4,min_ngram=2)'",
    ),
    (
        "spec_decoding_acceptance_method",
        "is a part here: verifier='shared-noise' keeps the tokens of dense decoding, 'rejection' their distribution",
    ),
    (
        "max_num_batched_tokens long_prefill_token_threshold enable_chunked_prefill",
        "is an option of the scheduler here: scheduler='staggered(chunk=256)' fills 256 prompt tokens per step",
    ),
    ("scheduler_cls", "is a part here: scheduler='lockstep', 'staggered' or one of your own"),
    ("enforce_eager", "is called graphs here: graphs=False records no CUDA graphs"),
    (
        "max_seq_len_to_capture cuda_graph_sizes cudagraph_capture_sizes compilation_config",
        "is not supported: the shapes of CUDA graphs follow from max_num_seqs and the parts; graphs=False records none",
    ),
    ("num_gpu_blocks_override", "is called num_gpu_blocks here, the pages of the KV pool"),
    (
        "gpu_memory_utilization kv_cache_memory_bytes",
        "is not supported: num_gpu_blocks sets the pages of the KV pool, which takes 2 GiB at most by default",
    ),
    (
        "swap_space preemption_mode kv_offloading_size kv_transfer_config",
        "is a part here: tiers='host(size=4.0)' spills KV to host memory, up to 4 times the pages of the device",
    ),
    ("cpu_offload_gb", "is not supported: weights stay on the device; only KV can be spilled, with tiers='host'"),
    (
        "enable_prefix_caching prefix_caching_hash_algo",
        "is not supported: the samples of one request share the KV of their prompt, and requests share nothing",
    ),
    (
        "async_scheduling num_scheduler_steps disable_async_output_proc",
        "is the loop here: loop='sync' waits for each step, loop='delayed' and loop='resident' run one step ahead",
    ),
    (
        "attention_backend attention_config",
        "is a part here: attention='triton', 'flashinfer' or 'reference'; by default what suits the device",
    ),
    (
        "disable_sliding_window disable_cascade_attn",
        "is not supported: verification always reads the whole context, and a selector says what drafts read",
    ),
    ("download_dir", "is called cache here, the folder for fetched models"),
    (
        "generation_config override_generation_config",
        "is not supported: defaults are read from the model's generation_config.json, and SamplingParams replaces them",
    ),
    ("max_logprobs", "is not supported: a request may ask for as many logprobs as the vocabulary has tokens"),
    ("logprobs_mode", "is not supported: logprobs are those of the model's logits, before temperature and filters"),
    (
        "tensor_parallel_size pipeline_parallel_size data_parallel_size enable_expert_parallel worker_cls "
        "distributed_executor_backend disable_custom_all_reduce max_parallel_loading_workers",
        "is not supported: an engine runs on one device, which device='cuda:1' chooses",
    ),
    (
        "revision code_revision tokenizer_revision",
        "is not supported: hub models are fetched from their main branch; give a local folder for any other",
    ),
    ("hf_token", "is not supported: the hub's client finds a token itself, in the environment variable HF_TOKEN"),
    (
        "load_format config_format model_loader_extra_config ignore_patterns model_impl hf_config_path",
        "is not supported: a model is a folder with config.json and safetensors",
    ),
    (
        "trust_remote_code",
        "is not supported: code of a model's folder is never run; supported families are llama, qwen2 and qwen3",
    ),
    (
        "quantization kv_cache_dtype calculate_kv_scales",
        "is not supported: weights and KV have one float type, which dtype chooses",
    ),
    (
        "hf_overrides rope_scaling rope_theta",
        "is not supported: a model is computed as its config.json says; edit that of a local copy",
    ),
    (
        "limit_mm_per_prompt mm_processor_kwargs allowed_local_media_path disable_mm_preprocessor_cache",
        "is not supported: prompts are text or token ids",
    ),
    (
        "task runner convert override_pooler_config pooler_config",
        "is not supported: models generate tokens and make no embeddings",
    ),
    (
        "enable_lora max_loras max_lora_rank max_cpu_loras lora_dtype fully_sharded_loras lora_request "
        "enable_prompt_adapter prompt_adapter_request",
        "is not supported: merge an adapter into the model's weights before loading them",
    ),
    (
        "scheduling_policy priority",
        "is not supported: requests are admitted in the order in which they were added",
    ),
    (
        "tokenizer_mode skip_tokenizer_init",
        "is not supported: the tokenizer is that of the model's folder, or the one that tokenizer= is given",
    ),
    (
        "served_model_name disable_log_stats otlp_traces_endpoint collect_detailed_traces",
        "is not supported: there is no server; on_step and RequestOutput.metrics say what an engine does",
    ),
    ("enable_sleep_mode", "is not supported: close() frees what an engine holds"),
    # SamplingParams
    (
        "presence_penalty frequency_penalty repetition_penalty logit_bias logits_processors typical_p",
        "is not supported: temperature, top_p, top_k and min_p are all that changes the model's distribution",
    ),
    ("min_tokens", "is not supported: ignore_eos=True goes on to max_tokens"),
    (
        "structured_outputs guided_decoding guided_options_request structured_outputs_config guided_decoding_backend "
        "allowed_token_ids bad_words repetition_detection thinking_token_budget",
        "is not supported: outputs cannot be constrained, only ended by stop, stop_token_ids and max_tokens",
    ),
    (
        "best_of use_beam_search beam_width length_penalty early_stopping",
        "is not supported: n draws independent samples, and there is no beam search",
    ),
    (
        "prompt_logprobs prompt_logprob_token_ids logprob_token_ids flat_logprobs",
        "is not supported: logprobs reports output tokens, each with the most likely ones",
    ),
    (
        "detokenize skip_special_tokens spaces_between_special_tokens include_stop_str_in_output",
        "is not supported: text leaves out special tokens and the stop string, token_ids has every token",
    ),
    (
        "output_kind stream_interval",
        "is not supported: generate returns whole outputs, and stream yields tokens as they come",
    ),
    (
        "truncate_prompt_tokens tokenization_kwargs",
        "is not supported: a prompt that is too long is refused; shorten it before",
    ),
    ("extra_args skip_reading_prefix_cache additional_config", "is not supported: no part of an engine reads it"),
    # LLM.generate and LLM.chat
    ("prompt_token_ids", "is called prompts here, which takes texts and lists of token ids alike"),
    (
        "chat_template chat_template_content_format chat_template_kwargs add_generation_prompt "
        "continue_final_message tools",
        "is not supported: the model's own chat template renders a conversation; generate takes any token ids",
    ),
)

VLLM_NAMES: dict[str, str] = {name: said for names, said in _GROUPS for name in names.split()}
"""Name of vLLM → what is said of it."""


def sentence_for(name: object) -> str | None:
    """Return the sentence for a name of vLLM, None for any other."""
    return f"{name} {VLLM_NAMES[name]}" if isinstance(name, str) and name in VLLM_NAMES else None


def unknown_option(kind: str, name: object, have: Iterable[str]) -> errors.UnknownName:
    """Return the error for an option that does not exist: the sentence for a name of vLLM, or else what exists."""
    sentence = sentence_for(name)
    return errors.UnknownName(sentence) if sentence else errors.unknown(kind, name, have)
