"""Rendered kitchens with an instruction or an intent, and its goal: `world:kitchens`."""
