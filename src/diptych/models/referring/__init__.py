"""Language models with region prompts, and boxes and masks decoded from reference tokens (REF-VLM)."""
