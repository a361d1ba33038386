"""Models of findings and their locations in chest X-rays."""
