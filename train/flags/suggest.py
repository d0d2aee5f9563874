"""Suggestions for unknown flags and values: foreign names, and typos.

A wrong suggestion does harm, since a user who follows it trains something else.
So a flag is suggested only if it is the known counterpart of the typed name,
contains every word of it, or differs from it by a typo.
"""

import difflib
from collections.abc import Iterable, Sequence

# Our flags, with their names in nanoGPT, Hugging Face, MaxText, fairseq and
# papers.
FLAGS = {
  'learning_rate': 'lr learningrate max_lr peak_lr base_lr step_size eta alpha',
  'warmup_steps': 'warmup_iters warmup_updates num_warmup_steps '
  'learning_rate_warmup warmup_ratio',
  'steps': 'max_iters max_steps iters iterations num_steps train_steps '
  'training_steps max_update max_updates updates total_steps epochs epoch '
  'num_epochs num_train_epochs max_epoch n_epochs num_iters n_steps',
  'batch_size': 'batch bs mini_batch minibatch per_device_batch_size '
  'per_device_train_batch_size global_batch_size train_batch_size batchsize '
  'micro_batch_size sentences batch_sentences max_sentences',
  'microbatches': 'gradient_accumulation_steps grad_accum accumulation_steps '
  'accum update_freq gradient_accumulation accumulate',
  'seq_len': 'block_size ctx context context_length context_size n_ctx '
  'ctx_len max_seq_len max_seq_length seq_length sequence_length '
  'max_target_length max_length max_position_embeddings n_positions '
  'tokens_per_sample maxlen model_max_length',
  'd_model': 'n_embd n_embed embed_dim emb_dim embedding_dim hidden_size '
  'model_dim dim hidden_dim width model_width model_size d_hidden embed_size '
  'embedding_size base_emb_dim encoder_embed_dim decoder_embed_dim n_state '
  'd_embed hidden d_embd',
  'num_layers': 'n_layer n_layers num_hidden_layers layers depth nlayers '
  'num_blocks n_blocks num_decoder_layers base_num_decoder_layers '
  'decoder_layers nlayer blocks num_layer',
  'model.encoder_layers': 'num_encoder_layers',
  'num_heads': 'n_head n_heads num_attention_heads heads nhead attention_heads '
  'num_query_heads base_num_query_heads decoder_attention_heads '
  'encoder_attention_heads num_head',
  'num_kv_heads': 'num_key_value_heads n_kv_heads n_kv_head kv_heads '
  'base_num_kv_heads multi_query gqa mqa',
  'head_dim': 'head_size d_head d_k dim_head d_kv attention_head_size',
  'feedforward.width': 'intermediate_size mlp_dim ffn_dim d_ff dff hidden_mlp '
  'dim_feedforward ffn_hidden_size n_inner base_mlp_dim d_mlp mlp_hidden '
  'decoder_ffn_embed_dim encoder_ffn_embed_dim mlp_width ffn_size ff_dim '
  'mlp_ratio expansion',
  'feedforward.activation': 'activation hidden_act activation_function '
  'activation_fn act_fn nonlinearity mlp_activations',
  'feedforward': 'mlp ffn mlp_type ff feed_forward ffn_type',
  'dropout_residual dropout_attention dropout_embedding': 'dropout p_dropout '
  'dropout_rate drop dropout_prob drop_rate',
  'dropout_attention': 'attention_dropout attn_dropout attn_pdrop '
  'attention_probs_dropout_prob attention_dropout_prob attn_drop',
  'dropout_residual': 'resid_dropout resid_pdrop hidden_dropout '
  'hidden_dropout_prob residual_dropout resid_drop',
  'dropout_embedding': 'embd_pdrop embed_dropout emb_dropout embd_dropout '
  'embedding_dropout embd_drop',
  'feedforward.dropout': 'activation_dropout relu_dropout mlp_dropout '
  'ffn_dropout',
  'weight_decay': 'wd weight_decay_rate l2 adam_weight_decay',
  'clip': 'grad_clip gradient_clipping max_grad_norm clip_norm '
  'gradient_clip_val gradient_clipping_threshold clip_grad_norm clip_grad '
  'grad_norm gradient_clip',
  'optimizer.b1': 'beta1 adam_beta1 adam_b1 b1',
  'optimizer.b2': 'beta2 adam_beta2 adam_b2 b2',
  'optimizer.b1 optimizer.b2': 'betas adam_betas',
  'optimizer.eps': 'adam_eps adam_epsilon epsilon adam_eps_root',
  'optimizer.momentum': 'momentum',
  'optimizer.adam_rate': 'adam_lr adamw_lr muon_adam_lr',
  'optimizer': 'optim opt opt_type optimiser',
  'groups': 'param_groups parameter_groups lr_mult lr_mults',
  'schedule': 'lr_scheduler lr_scheduler_type scheduler lr_schedule '
  'learning_rate_schedule decay_lr lr_decay lr_decay_style',
  'schedule.final': 'min_lr min_lr_ratio '
  'cosine_learning_rate_final_fraction lr_final final_lr',
  'eval_every': 'eval_interval eval_steps eval_freq validate_interval '
  'validation_interval evaluation_interval val_every val_interval '
  'val_check_interval evaluate_every valid_every validate_every',
  'eval_examples': 'eval_iters eval_batches num_eval_examples max_eval_samples '
  'eval_samples val_examples',
  'log_every': 'log_interval logging_steps log_freq log_period log_steps',
  'log_to': 'report_to wandb tensorboard logger wandb_log tracker',
  'log_to.project': 'wandb_project project',
  'checkpoint_seconds': 'save_interval save_steps checkpoint_period save_every '
  'checkpoint_every checkpoint_interval',
  'keep_checkpoints': 'save_total_limit max_to_keep keep_last keep_last_epochs',
  'workdir': 'out_dir output_dir save_dir outdir logdir log_dir run_dir '
  'base_output_directory checkpoint_dir out run_name name exp_name '
  'results_dir',
  'init_from': 'resume resume_from resume_from_checkpoint restore_file '
  'pretrained checkpoint load load_from model_name_or_path finetune_from '
  'load_parameters_path ckpt restore',
  'task.path': 'data dataset data_path data_dir train_file file text path '
  'dataset_path input input_file corpus_path dataset_name files',
  'task.corpus': 'corpus',
  'task.tokenizer': 'tokenizer tokenization tokenizer_name bpe tokeniser',
  'task.tokenizer.vocab_size': 'vocab_size vocab n_vocab vocabulary_size '
  'num_tokens',
  'task.rate': 'mlm_probability mask_prob masking_prob mask_rate mask_ratio '
  'mlm_prob masked_lm_prob',
  'dtype': 'precision fp16 bf16 mixed_precision amp compute_dtype half '
  'torch_dtype activation_dtype',
  'remat': 'gradient_checkpointing activation_checkpointing remat_policy '
  'checkpoint_activations',
  'use_bias': 'bias attention_bias qkv_bias bias_terms biases mlp_bias',
  'tie_embeddings': 'tie_word_embeddings weight_tying tie_weights '
  'share_decoder_input_output_embed logits_via_embedding tie_embed',
  'norm': 'norm_type layer_norm layernorm rmsnorm normalization norm_layer',
  'norm.eps': 'layer_norm_eps rms_norm_eps norm_eps layer_norm_epsilon '
  'normalization_layer_epsilon',
  'residual': 'pre_norm prenorm post_norm postnorm norm_first '
  'decoder_normalize_before norm_position',
  'position': 'pos_emb pos_embed pos_encoding rope alibi rotary pe '
  'position_embedding position_embedding_type pos positional_encoding '
  'positional_embedding pos_type positions positional',
  'position.theta': 'rope_theta rotary_base rope_base theta rope_max_timescale',
  'mask.window': 'sliding_window window window_size attention_window '
  'sliding_window_size local_attention_window',
  'mask': 'causal attention_mask is_causal attn_mask attention_type',
  'backend': 'flash_attention flash attn_implementation attention_kernel '
  'use_flash_attention attention sdpa attention_backend use_flash_attn',
  'logit_cap': 'attn_logit_softcapping attn_logits_soft_cap softcap '
  'logit_softcap',
  'average.decay': 'ema_decay ema',
  'init.std': 'initializer_range init_std weight_init_std',
  'seed': 'random_seed rng_seed init_weights_seed data_seed manual_seed',
  'seeds': 'n_seeds num_seeds repeats runs num_runs replicates',
  'label_smoothing': 'label_smoothing_factor smoothing ls',
  'devices': 'gpus n_gpus num_gpus n_devices num_devices gpu device world_size '
  'nproc_per_node',
  'workers': 'num_workers jobs processes nproc n_jobs num_processes',
  'new_tokens': 'max_new_tokens max_tokens num_tokens_to_generate gen_len '
  'n_tokens gen_tokens max_gen_len length',
  'temperature': 'temp',
  'beam': 'num_beams beam_size beams beam_width',
  'length_penalty': 'lenpen length_pen',
  'prompt': 'prefix_text prompts input_text',
  'generate': 'sample generation translate inference',
  'evaluate': 'eval eval_only test evaluation validate do_eval',
  'plan': 'dry_run dryrun',
  'smoke': 'debug quick fast_dev_run',
  'list': 'ls_experiments experiments',
  'task.buckets': 'group_by_length bucketing',
  'task.beam': 'eval_beam',
}
# Hints on the unit, with foreign names of flags that count in another unit.
UNITS = {
  'updates, not epochs': 'epochs epoch num_epochs num_train_epochs max_epoch '
  'n_epochs',
  'a number of steps': 'warmup_ratio',
  'a width, not a factor': 'mlp_ratio expansion',
  'a share of the peak': 'min_lr lr_final final_lr',
  'examples, not batches': 'eval_iters eval_batches',
  'seconds, not steps': 'save_interval save_steps save_every checkpoint_every '
  'checkpoint_interval checkpoint_period',
  'parts of a batch': 'gradient_accumulation_steps grad_accum '
  'accumulation_steps accum update_freq gradient_accumulation accumulate',
}
# Our values, with their names in papers.
VALUES = {
  'rope': 'rotary rotary_embedding',
  'learned': 'absolute learnt trained gpt2',
  'sinusoidal': 'sin sine sincos fixed vaswani',
  't5': 'relative rel bucketed relative_bias',
  'none': 'nope no off null nil',
  'adamw': 'adam adam_w',
  'rmsnorm': 'rms rms_norm',
  'layernorm': 'ln layer_norm layer',
  'shared_kv': 'qk kv_shared',
  'mla': 'latent',
  'bfloat16': 'bf16 half fp16 float16',
  'float32': 'fp32 f32 float single',
  'decoder': 'gpt gpt2 causal_lm lm',
  'encoder': 'bert mlm',
  'encoder_decoder': 'seq2seq enc_dec encdec t5 transformer',
  'byte': 'bytes utf8',
  'char': 'chars character characters',
  'word': 'words',
}
# Words that do not distinguish flags.
# fmt: off
FILLERS = {
  'num', 'n', 'number', 'of', 'max', 'min', 'size', 'type', 'kind', 'mode',
  'name', 'the', 'rate', 'value', 'use', 'is', 'with', 'encoding', 'function',
  'fn', 'method', 'style', 'total', 'base', 'default', 'train', 'training',
  'per', 'my', 'model'
}
# fmt: on
_SLIP = 0.8  # least similarity of two flags that differ by a typo
_NEAR = 0.6  # of two values: less, as the message lists all values anyway


def _invert(rows: dict[str, str]) -> dict[str, list[str]]:
  """Returns our names by foreign name."""
  found: dict[str, list[str]] = {}
  for ours, foreign in rows.items():
    for name in foreign.split():
      found.setdefault(name, []).extend(ours.split())
  return found


_FLAGS, _VALUES = _invert(FLAGS), _invert(VALUES)
_UNITS = {word: unit for unit, words in UNITS.items() for word in words.split()}


def suggest_value(word: str, options: Iterable[str]) -> str:
  """Returns '; did you mean X?' for the value that was meant, or ''."""
  there = list(options)
  meant = [v for v in _VALUES.get(_plain(word), ()) if v in there]
  reordered = [v for v in there if _words(v) == _words(_plain(word))]
  close = difflib.get_close_matches(word, there, n=1, cutoff=_NEAR)
  return _question((meant or reordered or close)[:1])


def suggest_flag(word: str, options: Iterable[str]) -> str:
  """Returns '; did you mean X?' for the flag that was meant, or ''."""
  there, name = list(options), _plain(word)
  if name in there:
    return _question([name])
  if meant := [flag for flag in _FLAGS.get(name, ()) if flag in there]:
    return _question(meant, _UNITS.get(name))
  return _question(_typos(name, there) or _with_words(name, there))


def _plain(word: str) -> str:
  return word.lower().replace('-', '_')


def _question(names: Sequence[str], unit: str | None = None) -> str:
  if not names:
    return ''
  *others, last = names
  some = f'{", ".join(others)} or {last}' if others else last
  return f'; did you mean {some}{f" ({unit})" if unit else ""}?'


def _typos(word: str, options: Sequence[str]) -> list[str]:
  """Returns the option of which `word` is probably a typo, in a list, or [].

  A typo is assumed to have the right first letter, and most of the others.
  """
  near = difflib.get_close_matches(word, options, n=3, cutoff=_SLIP)
  return [name for name in near if name[:1] == word[:1]][:1]


def _with_words(word: str, options: Sequence[str]) -> list[str]:
  """Returns the options with all words of `word`, and not many others."""
  words = _words(word) - FILLERS
  if not words:
    return []
  shares = {
    name: len(words) / len(held | words)
    for name in options
    if words <= (held := _words(name))
  }
  best = max(shares.values(), default=0.0)
  found = [name for name, share in shares.items() if share == best >= 0.5]
  return found if len(found) <= 3 else []


def _words(name: str) -> set[str]:
  """Returns the set of words of a name, without the plural s."""
  parts = name.replace('.', '_').split('_')
  return {p[:-1] if len(p) > 3 and p[-1] == 's' else p for p in parts if p}
