//! containerd runtime v2 shim: runs containers, and builds with their steps as processes.
