"""Command line options: parsing, help texts and printed output."""
