//! Frontends: the trait, the bridge, build inputs and the built-in Dockerfile frontend.
