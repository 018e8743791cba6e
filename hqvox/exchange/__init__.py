"""Releases in the forms that others read and write: exports, and the import of HQ-VoxCeleb."""
