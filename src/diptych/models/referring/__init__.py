"""A language model whose answers point at things: regions go in as prompts, boxes and masks come out of its reference tokens (REF-VLM)."""
