//! The backend traits over containerd's API.
