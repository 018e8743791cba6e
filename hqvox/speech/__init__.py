"""Voices: finding VoxCeleb's audio, decoding, voice activity, log-mels, and packing them."""
