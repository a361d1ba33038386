"""Text-to-image diffusion: networks, schedules, sampling, reference pictures; on diffusers."""
