//! Dockerfiles: lexer, parser, stages, checks and conversion to a Definition.
