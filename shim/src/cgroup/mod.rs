//! Control groups of builds and their steps, on cgroup v1, hybrid and v2. It never decides who gets which limit.
//!
//! ```text
//! <build>/            limits and figures of the whole build; on v2 it has no process of its own
//! <build>/common/     the launcher and every step without limits: children are born here, nobody is ever moved
//! <build>/<step>/     a step with limits
//! ```

mod devices;
mod group;
mod hierarchy;
mod limits;
mod program;

pub(crate) use devices::{DeviceRule, default_rules};
pub(crate) use group::Group;
pub(crate) use hierarchy::Hierarchies;
pub(crate) use limits::is_limited;

/// The group below a build's in which its launcher and its unlimited steps are.
pub(crate) const COMMON: &str = "common";
