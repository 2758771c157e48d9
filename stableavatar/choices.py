"""What can be chosen by name. Here, so that a command line knows the words without waiting for torch to load."""

# Everything that a video may choose and that a preset has a value for.
CHOICES = (
    "prompt",
    "negative_prompt",
    "seed",
    "num_steps",
    "text_scale",
    "audio_scale",
    "text_schedule",
    "audio_schedule",
    "overlap",
    "window_latents",
    "mode",
    "blend",
    "scheduler",
    "guidance",
    "lora",
    "loudness",
)

MODES = ("full", "model_offload", "group_offload", "fp8", "fp8_group_offload")  # of memory
RESIDENT = ("full", "fp8")  # in these everything stays on the device

# The dispatcher's names. All give the same numbers within rounding, but for sage, which computes in 8 bits.
BACKENDS = {
    "flash3": "_flash_3",
    "flash": "flash",
    "cudnn": "_native_cudnn",
    "sage": "sage",
    "native": "native",
}
