"""Published chains of curation steps, as files for ``diptych curate --config NAME``."""
