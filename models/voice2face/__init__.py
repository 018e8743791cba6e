"""voice2face, the baseline of the papers: as its authors released it, and as SF2F built it anew."""
