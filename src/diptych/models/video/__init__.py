"""Parts of models that read clips."""
