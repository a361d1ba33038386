"""Models for screenshots of applications."""
