"""SF2F: the networks of the paper's section 4 and appendix D, and the released code's variants."""
