"""Frozen dual encoders with learned prompts of class names (CoOp, CoCoOp)."""
