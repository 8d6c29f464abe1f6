//! The engine over graphs of integers: caching, sharing and a model.

mod caching;
mod common;
mod scale;
mod sharing;
mod storm;
