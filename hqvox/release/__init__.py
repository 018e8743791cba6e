"""Finished datasets: selecting, splitting, writing and describing a release."""
