"""What is written about persons from their attributes."""
