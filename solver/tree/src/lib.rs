//! Filesystem trees of layers: compare, archive, extract, compress, hash and copy.
