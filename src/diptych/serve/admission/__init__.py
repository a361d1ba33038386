"""Admission control: access, rates, and limits on requests."""
