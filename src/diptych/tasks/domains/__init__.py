"""Protocols of special domains: persons, medicine, pathology, remote sensing."""
