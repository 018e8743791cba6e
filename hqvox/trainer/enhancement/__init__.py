"""Fine-tuning GFPGAN on a release's faces, as AVP-GAN does (its section 3.3)."""
