//! EXPOSE: words may hold several ports after expansion; ranges become single ports.

use super::Lowering;
use super::dispatch::Step;
use crate::error::{Error, InstructionError};
use crate::image::Nothing;
use crate::lint::Rule;
use std::net::IpAddr;

impl Lowering<'_> {
    pub(super) fn expose(&mut self, step: &Step<'_>, words: &[String]) -> Result<(), Error> {
        let mut ports = Vec::new();
        for word in words {
            for port in self.shell.words(word, self.vars(step.stage))? {
                ports.extend(expand(step, &port)?);
            }
        }
        let (epoch, text) = (self.epoch, format!("EXPOSE [{}]", ports.join(" ")));
        let image = &mut self.stages[step.stage].image;
        image
            .config
            .exposed_ports
            .extend(ports.into_iter().map(|port| (port, Nothing {})));
        image.commit(text, false, epoch);
        Ok(())
    }
}

/// `[[ip:]host:]port[-port][/protocol]`; all but ports and protocol is only checked.
fn expand(step: &Step<'_>, written: &str) -> Result<Vec<String>, InstructionError> {
    let (ip, host, rest) = parts(written);
    let (ports, protocol) = rest.split_once('/').unwrap_or((rest, ""));
    let bad = |reason: &str| {
        let (written, reason) = (written.to_owned(), reason.to_owned());
        InstructionError::Port { written, reason }
    };
    if ports.is_empty() {
        return Err(bad("no port specified"));
    }
    let lower = protocol.to_lowercase();
    if !matches!(lower.as_str(), "" | "tcp" | "udp" | "sctp") {
        return Err(bad(&format!("invalid proto: {protocol}")));
    }
    report(step, written, protocol, !ip.is_empty() || !host.is_empty());
    check_ip(&ip)?;
    let range = self::range(ports);
    let (start, end) = range.ok_or_else(|| InstructionError::ContainerPort(ports.to_owned()))?;
    if !host.is_empty() {
        let hosts = self::range(host);
        let (low, high) = hosts.ok_or_else(|| InstructionError::HostPort(host.to_owned()))?;
        if end - start != high - low && end != start {
            let (ports, host) = (ports.to_owned(), host.to_owned());
            return Err(InstructionError::PortRanges(ports, host));
        }
    }
    let protocol = if lower.is_empty() { "tcp" } else { &lower };
    Ok((start..=end)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn report(step: &Step<'_>, written: &str, protocol: &str, mapped: bool) {
    let lines = step.instruction.lines;
    if protocol != protocol.to_lowercase() {
        let text =
            format!("Defined protocol '{written}' in EXPOSE instruction should be lowercase");
        step.lint.warn(&Rule::ExposeProtoCasing, lines, text);
    }
    if mapped {
        let text = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{written}'"
        );
        step.lint.warn(&Rule::ExposeInvalidFormat, lines, text);
    }
}

/// Address, host port and container port; an address may hold colons itself.
fn parts(written: &str) -> (String, &str, &str) {
    let mut parts: Vec<&str> = written.split(':').collect();
    let port = parts.pop().unwrap_or_default();
    let host = parts.pop().unwrap_or_default();
    (parts.join(":"), host, port)
}

fn check_ip(ip: &str) -> Result<(), InstructionError> {
    let bare = ip
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(ip);
    if bare.is_empty() || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(InstructionError::PortIp(ip.to_owned()))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    match text.split_once('-') {
        Some((low, high)) if low != high => {
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then_some((low, high))
        }
        Some((low, _)) => number(low).map(|port| (port, port)),
        None => number(text).map(|port| (port, port)),
    }
}
