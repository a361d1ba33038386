"""Rendered chest X-rays with reports, boxes and masks."""
