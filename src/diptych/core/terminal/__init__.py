"""Terminal output of running commands: progress bars, signals, notebook display."""
