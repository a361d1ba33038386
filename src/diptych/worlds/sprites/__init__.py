"""Sprites: coloured shapes on black, as scenes to segment and as tasks for an agent (after Spriteworld)."""
