"""Curation of data: small pure steps over a stream of rows, each of which counts what it does."""
