//! BuildKit's and fsutil's wire messages, and with feature grpc their services; no logic.
