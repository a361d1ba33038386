"""Texts about rooms: descriptions, questions, prompts of a conversation."""
