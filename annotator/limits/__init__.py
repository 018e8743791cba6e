"""What other limits would let in or shut out."""
