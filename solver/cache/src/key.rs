//! Derivation of cache keys, byte for byte as BuildKit v0.33 derives them. It decides keys only.
