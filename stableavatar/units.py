"""The clocks that picture and sound share. Everything that counts frames, latents or samples counts them here.

Frame 0 is latent 0; latent k > 0 stands for video frames 4k-3 .. 4k (the VAE is causal in time).
"""

FPS = 25  # video frames per second, in and out
SPEECH_RATE = 16_000  # samples per second of the mono speech that drives the model
SAMPLES_PER_FRAME = SPEECH_RATE // FPS  # 640
FRAMES_PER_LATENT = 4  # the VAE's temporal compression
PIXELS_PER_LATENT = 8  # the VAE's spatial compression


def frames_in(duration_s: float) -> int:
    """Number of video frames that a sound of `duration_s` seconds asks for."""
    return round(duration_s * FPS)


def latents_for(num_frames: int) -> int:
    """Fewest latent frames that decode to at least `num_frames` video frames."""
    return 1 + -(-(num_frames - 1) // FRAMES_PER_LATENT)


def frames_of(num_latents: int) -> int:
    """Number of video frames that `num_latents` latent frames decode to."""
    return 1 + FRAMES_PER_LATENT * (num_latents - 1)
