"""Writes docs/reference from the tables that the product itself uses, so that no page can say anything else."""
