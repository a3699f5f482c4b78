"""Tests of the package, the recipes and the tools."""
