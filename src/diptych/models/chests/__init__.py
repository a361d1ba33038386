"""Models that read findings and their places out of chest X-rays."""
