"""Whole tables of the paper: which runs, in which order, and what they say together."""
