"""Students: loading, vocabularies, adapters."""
