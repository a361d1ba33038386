"""Rendered kitchens with an instruction or an intent, and the goal that it means: `world:kitchens`."""
