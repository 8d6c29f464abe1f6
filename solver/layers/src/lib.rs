//! Layer handles: prepare, commit, blob chains, usage and collection plans.
