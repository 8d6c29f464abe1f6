//! containerd's Snapshots service over the layer store.
