"""Grounding protocols: referring expressions, phrases of captions, open-vocabulary detection."""
