//! Sources as engine operations: image, local.
