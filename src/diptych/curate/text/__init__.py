"""Text curation: language, entries, balance."""
