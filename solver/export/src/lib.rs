//! Exporters: image, oci, docker, tar, local.
