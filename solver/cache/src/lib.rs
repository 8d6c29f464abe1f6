//! Cache-key derivation, key links and key stores.
