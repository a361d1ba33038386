"""Recipes in which a language model learns from its own texts share: prompts, supervised start, transitions, tasks of GRUE."""
