"""Student and teacher models: loading, their output heads, vocabularies and adapters."""
