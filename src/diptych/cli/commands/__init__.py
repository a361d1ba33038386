"""One command a file, by its name; long sub-commands have files of their own (`data_web`, `explain_words`)."""
