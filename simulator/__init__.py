"""Drives any target's pods, finds what they lose, and shows it. CONTRIBUTING.md says which file does what."""
