//! The domain's plain types: digests, platforms, operations, definitions, descriptors, progress.
