"""Pixels: decoding and encoding, compositing on white, drawing."""
