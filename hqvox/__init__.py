"""hqvox: curated voice-face datasets in HQ-VoxCeleb's form, and the models trained on them."""

__version__ = "0.1.0"
