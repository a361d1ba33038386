"""Protocols for one field: persons, medicine, pathology, remote sensing."""
