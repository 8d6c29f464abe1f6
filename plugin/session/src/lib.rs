//! The client session over the hijacked stream: filesync, auth, secrets, ssh, upload.
