"""Dual encoders with training-time parts: memories, teachers, prototypes, several texts per image."""
