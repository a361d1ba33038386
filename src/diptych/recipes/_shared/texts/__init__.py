"""What recipes share that read texts of their own making: wrong ones, second ones, knowledge."""
