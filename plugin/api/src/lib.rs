//! Control and LLBBridge: wire to domain, errors to status details.
