"""The flags of sd-scripts' `flux_train_network.py`, and which of them an abbreviated spelling means.

Source: the parser that `flux_train_network.py` puts together (`setup_parser`), a plain
`argparse.ArgumentParser`, so any unambiguous beginning of a flag is that flag (argparse documentation,
"Argument abbreviations").
"""

from __future__ import annotations

#: Flags that take no value.
SWITCHES = frozenset(
    """
    --alpha_mask --apply_t5_attn_mask --async_upload --bucket_no_upscale --cache_info --cache_latents
    --cache_latents_to_disk --cache_text_encoder_outputs --cache_text_encoder_outputs_to_disk --color_aug
    --console_log_simple --cpu_offload_checkpointing --ddp_gradient_as_bucket_view --ddp_static_graph
    --debiased_estimation_loss --debug_dataset --deepspeed --dim_from_weights
    --disable_mmap_load_safetensors --enable_bucket --enable_wildcard --flip_aug
    --fp16_master_weights_and_gradients --fp8_base --fp8_base_unet --full_bf16 --full_fp16
    --fused_backward_pass --gradient_checkpointing --highvram --ip_noise_gamma_random_strength
    --log_config --lowram --masked_loss --mem_eff_attn --network_train_text_encoder_only
    --network_train_unet_only --no_half_vae --no_metadata --noise_offset_random_strength --output_config
    --persistent_data_loader_workers --random_crop --resume_from_huggingface --sample_at_first
    --save_state --save_state_on_train_end --save_state_to_huggingface
    --scale_v_pred_loss_like_noise_pred --sdpa --shuffle_caption --skip_cache_check
    --skip_until_initial_step --split_mode --torch_compile --use_8bit_adam --use_lion_optimizer --v2
    --v_parameterization --weighted_captions --xformers --zero3_init_flag --zero3_save_16bit_model
    --zero_terminal_snr
    """.split()
)

#: Flags that take any number of values (`nargs="*"`).
MANY_VALUED = frozenset(
    """
    --base_weights --base_weights_multiplier --lr_scheduler_args --network_args --optimizer_args
    --text_encoder_lr
    """.split()
)

#: Flags that take exactly one value.
ONE_VALUED = frozenset(
    """
    --adaptive_noise_scale --ae --blocks_to_swap --bucket_reso_steps --caption_dropout_every_n_epochs
    --caption_dropout_rate --caption_extension --caption_extention --caption_prefix --caption_separator
    --caption_suffix --caption_tag_dropout_rate --clip_l --clip_skip --conditioning_data_dir
    --config_file --console_log_file --console_log_level --controlnet_model_name_or_path --dataset_class
    --dataset_config --dataset_repeats --ddp_timeout --discrete_flow_shift --dynamo_backend
    --face_crop_aug_range --gradient_accumulation_steps --guidance_scale --huber_c --huber_scale
    --huber_schedule --huggingface_path_in_repo --huggingface_repo_id --huggingface_repo_type
    --huggingface_repo_visibility --huggingface_token --in_json --initial_epoch --initial_step
    --ip_noise_gamma --keep_tokens --keep_tokens_separator --learning_rate --log_prefix
    --log_tracker_config --log_tracker_name --log_with --logging_dir --logit_mean --logit_std --loss_type
    --lr_decay_steps --lr_scheduler --lr_scheduler_min_lr_ratio --lr_scheduler_num_cycles
    --lr_scheduler_power --lr_scheduler_timescale --lr_scheduler_type --lr_warmup_steps --max_bucket_reso
    --max_data_loader_n_workers --max_grad_norm --max_timestep --max_token_length --max_train_epochs
    --max_train_steps --max_validation_steps --metadata_author --metadata_description
    --metadata_is_negative_embedding --metadata_license --metadata_merged_from --metadata_preprocessor
    --metadata_tags --metadata_thumbnail --metadata_title --metadata_trigger_phrase --metadata_usage_hint
    --min_bucket_reso --min_snr_gamma --min_timestep --mixed_precision --mode_scale
    --model_prediction_type --model_type --multires_noise_discount --multires_noise_iterations
    --network_alpha --network_dim --network_dropout --network_module --network_weights --noise_offset
    --offload_optimizer_device --offload_optimizer_nvme_path --offload_param_device
    --offload_param_nvme_path --optimizer_type --output_dir --output_name --pretrained_model_name_or_path
    --prior_loss_weight --reg_data_dir --resize_interpolation --resolution --resume
    --sample_every_n_epochs --sample_every_n_steps --sample_prompts --sample_sampler
    --save_every_n_epochs --save_every_n_steps --save_last_n_epochs --save_last_n_epochs_state
    --save_last_n_steps --save_last_n_steps_state --save_model_as --save_n_epoch_ratio --save_precision
    --scale_weight_norms --secondary_separator --seed --sigmoid_scale --t5xxl --t5xxl_max_token_length
    --text_encoder_batch_size --timestep_sampling --token_warmup_min --token_warmup_step
    --tokenizer_cache_dir --train_batch_size --train_data_dir --training_comment --unet_lr
    --v_pred_like_loss --vae --vae_batch_size --validate_every_n_epochs --validate_every_n_steps
    --validation_seed --validation_split --wandb_api_key --wandb_run_name --weighting_scheme --zero_stage
    """.split()
)

KNOWN = SWITCHES | MANY_VALUED | ONE_VALUED


def meant_flag(spelling: str) -> str:
    """The flag that a spelling means, or the spelling itself where it means none or several.

    argparse refuses `--resum` because `--resume_from_huggingface` begins with it too. Here such a beginning
    means `--resume`, the flag that all the candidates begin with, so that an edit finds it and writes it
    out.
    """
    if spelling in KNOWN or not spelling.startswith("--") or len(spelling) < 3:
        return spelling
    candidates = [flag for flag in KNOWN if flag.startswith(spelling)]
    shortest = min(candidates, key=len, default=spelling)
    return shortest if all(flag.startswith(shortest) for flag in candidates) else spelling
