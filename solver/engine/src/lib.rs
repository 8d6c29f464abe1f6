//! The scheduler: a pure graph, one driver task, jobs, sharing and cancellation.
