//! Contents of a step's `/etc/hosts` and `/etc/resolv.conf`. It reads the host's resolver configuration as text given
//! to it, and writes nothing.

use std::fmt::Write as _;

use shipway_model::op::HostIp;

/// Name servers that stand in where the host has only loopback ones and the step has no host network.
const PUBLIC_DNS: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// The hosts file of a step.
pub(super) fn hosts(hostname: &str, extra: &[HostIp]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for HostIp { host, ip } in extra {
        writeln!(text, "{ip}\t{host}").expect("writing to a string cannot fail");
    }
    text
}

/// The resolver configuration of a step: the host's as it is with the host's network, else without loopback servers.
pub(super) fn resolv_conf(host: &str, host_network: bool, configured: &DnsConfig) -> String {
    if configured != &DnsConfig::default() {
        return configured.text(host);
    }
    if host_network {
        return host.to_owned();
    }
    let mut kept: String = host
        .lines()
        .filter(|line| !is_loopback_server(line))
        .fold(String::new(), |text, line| text + line + "\n");
    if !kept.lines().any(|line| server(line).is_some()) {
        for address in PUBLIC_DNS {
            writeln!(kept, "nameserver {address}").expect("writing to a string cannot fail");
        }
    }
    kept
}

/// Name service that the daemon's configuration sets for all steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search_domains: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl DnsConfig {
    fn text(&self, host: &str) -> String {
        let from_host = |keyword: &str| -> Vec<String> {
            let lines = host
                .lines()
                .filter_map(|line| line.trim().strip_prefix(keyword));
            lines
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect()
        };
        let or_host = |own: &Vec<String>, keyword: &str| {
            if own.is_empty() {
                from_host(keyword)
            } else {
                own.clone()
            }
        };
        let mut text = String::new();
        let search = or_host(&self.search_domains, "search ");
        if !search.is_empty() {
            text.extend(["search ", &search.join(" "), "\n"]);
        }
        for address in or_host(&self.nameservers, "nameserver ") {
            text.extend(["nameserver ", &address, "\n"]);
        }
        let options = or_host(&self.options, "options ");
        if !options.is_empty() {
            text.extend(["options ", &options.join(" "), "\n"]);
        }
        text
    }
}

fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver"))
        .then(|| words.next())
        .flatten()
}

fn is_loopback_server(line: &str) -> bool {
    server(line).is_some_and(|address| address.starts_with("127.") || address == "::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_dropped_without_the_host_s_network() {
        let host = "search x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n";
        let dns = DnsConfig::default();
        assert_eq!(
            resolv_conf(host, false, &dns),
            "search x\nnameserver 10.0.0.1\n"
        );
        assert_eq!(resolv_conf(host, true, &dns), host);
        assert!(resolv_conf("nameserver 127.0.0.1\n", false, &dns).contains("8.8.8.8"));
    }

    #[test]
    fn configured_servers_replace_the_host_s() {
        let dns = DnsConfig {
            nameservers: vec!["1.2.3.4".into()],
            ..DnsConfig::default()
        };
        let host = "nameserver 10.0.0.1\noptions ndots:2\n";
        assert_eq!(
            resolv_conf(host, true, &dns),
            "nameserver 1.2.3.4\noptions ndots:2\n"
        );
    }

    #[test]
    fn extra_hosts_follow_the_loopback_lines() {
        let extra = [HostIp {
            host: "db".into(),
            ip: "10.1.1.1".into(),
        }];
        let text = hosts("box", &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost box\n::1\t"));
        assert!(text.ends_with("10.1.1.1\tdb\n"));
    }
}
