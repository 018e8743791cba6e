"""The stages of a build, one file each, in the order a photograph meets them."""
