"""One command a file, by its name; what a long one does under a sub-command lies beside it (`data_web`, `explain_words`)."""
